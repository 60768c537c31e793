//! Closed-loop load over kept connections, and what a process costs meanwhile. Prints nothing, judges
//! nothing: ratios are the caller's.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::http::Connection;

/// One kind of request, sent over and over.
#[derive(Debug, Clone)]
pub struct Load {
    /// `http://host:port`.
    pub url: String,
    /// Path.
    pub path: String,
    /// JSON body.
    pub body: String,
    /// Connections that each wait for an answer before the next request.
    pub connections: usize,
    /// Requests of each connection that count; a tenth as many go before, uncounted.
    pub requests: usize,
}

/// Latencies of the counted requests.
#[derive(Debug)]
pub struct Latencies {
    sorted: Vec<Duration>,
    /// From the first counted request to the last answer.
    pub wall: Duration,
}

impl Latencies {
    /// Sorts the samples.
    pub fn new(mut samples: Vec<Duration>, wall: Duration) -> Self {
        samples.sort_unstable();
        Self {
            sorted: samples,
            wall,
        }
    }

    /// The nearest-rank percentile, `percent` in 0..=100.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.sorted.len() * percent).div_ceil(100).max(1);
        self.sorted.get(rank - 1).copied().unwrap_or_default()
    }

    /// Number of samples.
    pub fn count(&self) -> usize {
        self.sorted.len()
    }
}

impl Load {
    /// Runs the load; an answer that is not 200 ends it.
    pub fn run(&self) -> Result<Latencies> {
        self.warm_up()?;
        let begun = Instant::now();
        let samples = self.all(self.requests)?;
        Ok(Latencies::new(samples, begun.elapsed()))
    }

    fn warm_up(&self) -> Result<()> {
        self.all((self.requests / 10).max(1)).map(drop)
    }

    fn all(&self, requests: usize) -> Result<Vec<Duration>> {
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..self.connections)
                .map(|_| scope.spawn(|| self.one(requests)))
                .collect();
            let mut samples = Vec::with_capacity(self.connections * requests);
            for connection in running {
                let Ok(done) = connection.join() else {
                    bail!("a connection's thread panicked")
                };
                samples.extend(done?);
            }
            Ok(samples)
        })
    }

    fn one(&self, requests: usize) -> Result<Vec<Duration>> {
        let mut connection = Connection::open(&self.url)?;
        let mut samples = Vec::with_capacity(requests);
        for _ in 0..requests {
            let begun = Instant::now();
            let answer = connection.post(&self.path, &[], &self.body)?;
            samples.push(begun.elapsed());
            if answer.status != 200 {
                bail!(
                    "{}{} answered {}: {}",
                    self.url,
                    self.path,
                    answer.status,
                    answer.text()
                );
            }
        }
        Ok(samples)
    }
}

/// What a process has used, from `/proc`.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// User and system time.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub resident: u64,
}

/// Reads the usage of a process. Linux only.
pub fn usage(pid: u32) -> Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .context("no /proc: the usage of a process is unknown here")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(Usage {
        cpu: cpu(&stat)?,
        resident: resident(&status)?,
    })
}

/// utime and stime, fields 14 and 15 of proc(5) in ticks of 10 ms; the name before may contain spaces.
fn cpu(stat: &str) -> Result<Duration> {
    let (_, fields) = stat.rsplit_once(") ").context("unknown form of stat")?;
    let ticks = |index: usize| -> Result<u64> {
        Ok(fields
            .split(' ')
            .nth(index - 3)
            .context("stat is too short")?
            .parse()?)
    };
    Ok(Duration::from_millis((ticks(14)? + ticks(15)?) * 10))
}

fn resident(status: &str) -> Result<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let samples = (1..=200).rev().map(Duration::from_micros).collect();
        let latencies = Latencies::new(samples, Duration::ZERO);
        let micros = |percent| latencies.percentile(percent).as_micros();
        assert_eq!(
            (micros(50), micros(99), micros(100), latencies.count()),
            (100, 198, 200, 200)
        );
    }

    #[test]
    fn usage_is_read_whatever_the_name_of_the_process() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu(stat).unwrap(), Duration::from_secs(3));
        assert_eq!(resident("Name:\tx\nVmRSS:\t   2048 kB\n").unwrap(), 2 << 20);
    }
}
