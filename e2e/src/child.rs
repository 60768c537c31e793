//! Child processes of tests: what they wrote so far, signals, and an end that leaves no zombie.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Everything a process wrote so far, on both streams.
#[derive(Debug, Clone, Default)]
pub(crate) struct Output(Arc<(Mutex<Text>, Condvar)>);

#[derive(Debug, Default)]
struct Text {
    lines: String,
    open: usize,
}

impl Output {
    fn collect(&self, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        self.lock().open += 1;
        let output = self.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines() {
                let Ok(line) = line else { break };
                let mut text = output.lock();
                text.lines.push_str(&line);
                text.lines.push('\n');
                output.0.1.notify_all();
            }
            output.lock().open -= 1;
            output.0.1.notify_all();
        })
    }

    fn lock(&self) -> MutexGuard<'_, Text> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True until both streams have ended.
    pub(crate) fn open(&self) -> bool {
        self.lock().open > 0
    }

    /// Everything so far.
    pub(crate) fn text(&self) -> String {
        self.lock().lines.clone()
    }

    /// Waits until `done` holds, both streams end, or the time is over; gives the text.
    pub(crate) fn wait(&self, limit: Duration, done: impl Fn(&str) -> bool) -> String {
        let waiting = |text: &mut Text| text.open > 0 && !done(&text.lines);
        let waited = self.0.1.wait_timeout_while(self.lock(), limit, waiting);
        waited
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .lines
            .clone()
    }
}

/// Starts a process whose two streams are collected.
pub(crate) fn spawn(command: &mut Command) -> Result<(Child, Output)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start {}", command.get_program().display()))?;
    let output = Output::default();
    // The reading threads end with the streams, that is, with the child.
    child.stdout.take().map(|stream| output.collect(stream));
    child.stderr.take().map(|stream| output.collect(stream));
    Ok((child, output))
}

pub(crate) fn signal(pid: u32, name: &str) -> Result<()> {
    let sent = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .stderr(Stdio::null())
        .status()?;
    if !sent.success() {
        bail!("could not signal process {pid}");
    }
    Ok(())
}

/// Ends a child that is ours and takes its status, so that no zombie stays.
pub(crate) fn end(child: &mut Child) {
    if let Ok(None) = child.try_wait() {
        // Both fail only if the child ended by itself in between.
        let _ = child.kill();
        let _ = child.wait();
    }
}
