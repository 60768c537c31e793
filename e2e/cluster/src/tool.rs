//! The programs of a Kubernetes, built from their published Go modules. The wrapper modules in
//! `e2e/tools` only list versions; what is built is kept by the hash of their lock files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{Tier, tell};

/// Version of Kubernetes, which its programs cannot tell by themselves.
const KUBERNETES: &str = "1.36.3";

/// How kwok plays nodes and pods: files of its own module, kept beside it as one.
pub(crate) const STAGES: &str = "stages.yaml";
const STAGE_FILES: [&str; 5] = [
    "node/fast/node-initialize.yaml",
    "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "pod/fast/pod-ready.yaml",
    "pod/fast/pod-complete.yaml",
    "pod/fast/pod-delete.yaml",
];

struct Module {
    name: &'static str,
    /// Name of the program and its package.
    programs: &'static [(&'static str, &'static str)],
}

/// What is built one after the other, so that what one compiled serves the next.
static MODULES: [Module; 11] = [
    Module {
        name: "etcd",
        programs: &[("etcd", "go.etcd.io/etcd/server/v3")],
    },
    Module {
        name: "kubernetes",
        programs: &[
            ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
            ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
            (
                "kube-controller-manager",
                "k8s.io/kubernetes/cmd/kube-controller-manager",
            ),
            ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
            ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
            ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
        ],
    },
    // Our own code, on libraries of the same version as Kubernetes.
    Module {
        name: "standins",
        programs: &[
            ("policies", "inferencemesh.dev/e2e/tools/standins/policies"),
            ("gpus", "inferencemesh.dev/e2e/tools/standins/gpus"),
            ("claims", "inferencemesh.dev/e2e/tools/standins/claims"),
            ("talk", "inferencemesh.dev/e2e/tools/standins/talk"),
        ],
    },
    Module {
        name: "containerd",
        programs: &[
            (
                "containerd",
                "github.com/containerd/containerd/v2/cmd/containerd",
            ),
            (
                "containerd-shim-runc-v2",
                "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2",
            ),
            ("ctr", "github.com/containerd/containerd/v2/cmd/ctr"),
        ],
    },
    Module {
        name: "helm",
        programs: &[("helm", "helm.sh/helm/v4/cmd/helm")],
    },
    // The one before, which many clusters are still run with.
    Module {
        name: "helm3",
        programs: &[("helm3", "helm.sh/helm/v3/cmd/helm")],
    },
    Module {
        name: "kubeconform",
        programs: &[(
            "kubeconform",
            "github.com/yannh/kubeconform/cmd/kubeconform",
        )],
    },
    // How GitOps tools read conditions, by their own library.
    Module {
        name: "kstatus",
        programs: &[("kstatus", "inferencemesh.dev/e2e/tools/kstatus/show")],
    },
    // What a Prometheus operator makes of monitors, by its own library.
    Module {
        name: "monitors",
        programs: &[("scrape", "inferencemesh.dev/e2e/tools/monitors/scrape")],
    },
    Module {
        name: "coredns",
        programs: &[("coredns", "github.com/coredns/coredns")],
    },
    Module {
        name: "kwok",
        programs: &[("kwok", "sigs.k8s.io/kwok/cmd/kwok")],
    },
];

/// What the packages of our own tools begin with.
const OWN: &str = "inferencemesh.dev/e2e/tools/";

/// Builds of other versions are kept this long: another checkout may use them.
const KEPT: Duration = Duration::from_hours(24);

/// Debian packages of a machine with nodes, by a file that each brings.
const PACKAGES: [(&str, &str); 7] = [
    ("/usr/sbin/runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("/usr/sbin/nft", "nftables"),
    ("/usr/sbin/iptables", "iptables"),
    ("/usr/sbin/conntrack", "conntrack"),
    ("/usr/bin/buildah", "buildah"),
    ("/sbin/ip", "iproute2"),
];

/// What rules and dashboards are tested with.
const PROMETHEUS: (&str, &str) = ("/usr/bin/promtool", "prometheus");

/// Where everything built is kept: `$HOME/.cache/inference-mesh`.
///
/// # Errors
/// If no home folder is known.
pub fn cache() -> Result<PathBuf> {
    let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
    Ok(home
        .context("no home folder is known: set HOME")?
        .join(".cache/inference-mesh"))
}

/// A program that is built already.
///
/// # Errors
/// If it is not.
pub fn path(program: &str) -> Result<PathBuf> {
    let module = module_of(program).with_context(|| format!("there is no tool {program}"))?;
    let path = folder(module)?.join(program);
    if !path.is_file() {
        bail!("{program} is not built: run `cargo xtask tools`");
    }
    Ok(path)
}

/// A program, built first if it is not there.
///
/// # Errors
/// If it cannot be built.
pub fn obtain(program: &str) -> Result<PathBuf> {
    if let Some(module) = module_of(program) {
        build(&[module.name])?;
    }
    path(program)
}

fn module_of(program: &str) -> Option<&'static Module> {
    let has = |module: &&Module| module.programs.iter().any(|(name, _)| *name == program);
    MODULES.iter().find(has)
}

/// Builds what a tier needs, and says what cannot be.
pub(crate) fn needed(tier: Tier) -> Result<()> {
    let modules: &[&str] = match tier {
        Tier::ControlPlane => &["etcd", "kubernetes"],
        Tier::FakeNodes => &["etcd", "kubernetes", "kwok"],
        Tier::Nodes => &[
            "etcd",
            "kubernetes",
            "standins",
            "containerd",
            "coredns",
            "helm",
        ],
    };
    build(modules)?;
    if tier == Tier::Nodes {
        packages()?;
    }
    Ok(())
}

/// Builds all tools and installs the packages that nodes need.
///
/// # Errors
/// If one cannot be had, with the reason.
pub fn build_all() -> Result<()> {
    let names: Vec<&str> = MODULES.iter().map(|module| module.name).collect();
    build(&names)?;
    packages()?;
    prometheus()
}

/// kubectl for a cluster that is not ours: one that is here already, or else a built one.
pub(crate) fn kubectl() -> Result<PathBuf> {
    if let Ok(built) = path("kubectl") {
        return Ok(built);
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .map(|folder| folder.join("kubectl"))
        .find(|program| program.is_file());
    if let Some(found) = found {
        return Ok(found);
    }
    build(&["kubernetes"])?;
    path("kubectl")
}

fn build(names: &[&str]) -> Result<()> {
    let wanted = || MODULES.iter().filter(|module| names.contains(&module.name));
    let missing = |module: &Module| folder(module).map(|folder| !complete(module, &folder));
    if !wanted()
        .map(missing)
        .collect::<Result<Vec<_>>>()?
        .contains(&true)
    {
        return Ok(());
    }
    // Several tests may want the same at once, and they share the caches below.
    let _turn = crate::state::lock("tools.lock")?;
    let mut built = false;
    for module in wanted() {
        let folder = folder(module)?;
        if !complete(module, &folder) {
            build_module(module, &folder)?;
            built = true;
        }
    }
    if built {
        // Downloaded sources and compiled packages are gigabytes that nobody needs any more.
        for name in ["go-mod", "go-build"] {
            drop(fs::remove_dir_all(cache()?.join("tools").join(name)));
        }
    }
    Ok(())
}

fn complete(module: &Module, folder: &Path) -> bool {
    module
        .programs
        .iter()
        .all(|(name, _)| folder.join(name).is_file())
}

fn source(module: &Module) -> Result<PathBuf> {
    let e2e = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("this crate lies in e2e")?;
    Ok(e2e.join("tools").join(module.name))
}

/// What decides about a module's programs: its lock files, and the source of our own.
fn sources(module: &Module) -> Result<Vec<PathBuf>> {
    let source = source(module)?;
    let mut files = vec![source.join("go.mod"), source.join("go.sum")];
    for (_, package) in module.programs {
        let Some(own) = package
            .strip_prefix(OWN)
            .and_then(|rest| rest.strip_prefix(module.name))
        else {
            continue;
        };
        for entry in fs::read_dir(source.join(own.trim_start_matches('/')))? {
            files.push(entry?.path());
        }
    }
    files.sort();
    Ok(files)
}

fn folder(module: &Module) -> Result<PathBuf> {
    let mut hasher = Sha256::new();
    for file in sources(module)? {
        hasher
            .update(fs::read(&file).with_context(|| format!("could not read {}", file.display()))?);
    }
    hasher.update(flags());
    let hash = hasher.finalize();
    let digits = hash.iter().take(6).flat_map(|byte| [byte >> 4, byte & 15]);
    let hash: String = digits
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect();
    Ok(cache()?
        .join("tools")
        .join(format!("{}-{hash}", module.name)))
}

fn flags() -> String {
    let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
    let version = "k8s.io/component-base/version";
    [
        ("gitVersion", format!("v{KUBERNETES}")),
        ("gitMajor", String::from("1")),
        ("gitMinor", minor.to_owned()),
        ("gitTreeState", String::from("clean")),
        ("gitCommit", String::from("unknown")),
        ("buildDate", String::from("1970-01-01T00:00:00Z")),
    ]
    .iter()
    .fold(String::from("-s -w"), |flags, (name, value)| {
        format!("{flags} -X {version}.{name}={value}")
    })
}

fn build_program(module: &Module, package: &str, program: &Path) -> Result<()> {
    let cache = cache()?.join("tools");
    let mut go = Command::new("go");
    go.current_dir(source(module)?)
        .args([
            "build",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
            &flags(),
            "-o",
        ])
        .arg(program)
        .arg(package)
        .env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "local")
        .env("GOFLAGS", "-mod=readonly -modcacherw")
        .env("GOMODCACHE", cache.join("go-mod"))
        .env("GOCACHE", cache.join("go-build"))
        .stdin(Stdio::null());
    let status = go
        .status()
        .context("no Go was found: install Go 1.26 or newer")?;
    if !status.success() {
        bail!("go build has failed: its words are above");
    }
    Ok(())
}

fn build_module(module: &Module, folder: &Path) -> Result<()> {
    let tools = cache()?.join("tools");
    let part = tools.join(format!("{}.part-{}", module.name, std::process::id()));
    fs::create_dir_all(&part)?;
    let begun = Instant::now();
    for (number, (name, package)) in module.programs.iter().enumerate() {
        tell(&format!(
            "building {name} ({} of {} of {})",
            number + 1,
            module.programs.len(),
            module.name
        ));
        build_program(module, package, &part.join(name))
            .with_context(|| format!("{name} could not be built"))?;
    }
    if module.name == "kwok" {
        fs::write(part.join(STAGES), stages(module)?)?;
    }
    for entry in fs::read_dir(&tools)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let old = || {
            let changed = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok();
            changed
                .and_then(|time| time.elapsed().ok())
                .is_some_and(|age| age > KEPT)
        };
        // We have the turn, so another's part is one that was given up.
        let given_up = name.starts_with(&format!("{}.part-", module.name)) && entry.path() != part;
        if given_up || name.starts_with(&format!("{}-", module.name)) && old() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    // A folder that lacks something is in the way.
    drop(fs::remove_dir_all(folder));
    fs::rename(&part, folder)?;
    tell(&format!(
        "{} is built after {} s",
        module.name,
        begun.elapsed().as_secs()
    ));
    Ok(())
}

/// The stages in the module's own source, which lies in the module cache after a build.
fn stages(module: &Module) -> Result<String> {
    let mut go = Command::new("go");
    go.current_dir(source(module)?)
        .args(["list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/kwok"])
        .env("GOMODCACHE", cache()?.join("tools/go-mod"));
    let folder = PathBuf::from(crate::process::run(&mut go)?.trim()).join("kustomize/stage");
    let mut all = String::new();
    for file in STAGE_FILES {
        let file = folder.join(file);
        all.push_str("---\n");
        all.push_str(
            &fs::read_to_string(&file)
                .with_context(|| format!("could not read {}", file.display()))?,
        );
    }
    Ok(all)
}

/// Installs what images are built with, where that is ours to do.
///
/// # Errors
/// If it is missing and cannot be installed, with what to install.
pub fn packages_for_images() -> Result<()> {
    if Path::new("/usr/bin/buildah").exists() {
        return Ok(());
    }
    packages()
}

/// Prometheus and its `promtool` of the system, installed where that is ours to do.
///
/// # Errors
/// If they are missing and cannot be installed, with what to install.
pub fn prometheus() -> Result<()> {
    if Path::new(PROMETHEUS.0).exists() {
        return Ok(());
    }
    if !root() {
        bail!(
            "Prometheus is not installed: install the package {}",
            PROMETHEUS.1
        );
    }
    let _turn = crate::state::lock("tools.lock")?;
    install(&missing(&[PROMETHEUS]))
}

/// Installs the packages that nodes need, where that is ours to do.
fn packages() -> Result<()> {
    if !root() {
        bail!("nodes need root: namespaces, cgroups and mounts are made for them");
    }
    install(&missing(&PACKAGES))
}

fn missing(packages: &[(&str, &'static str)]) -> Vec<&'static str> {
    let absent = packages
        .iter()
        .filter(|(file, _)| !Path::new(file).exists());
    absent.map(|(_, package)| *package).collect()
}

fn install(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    tell(&format!("installing {}", missing.join(" ")));
    let apt = |args: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Only the programs are wanted, not the services that they bring.
            .env("RUNLEVEL", "1");
        crate::process::run(&mut apt)
    };
    let wanted = [
        &["install", "-y", "-q", "--no-install-recommends"][..],
        missing,
    ]
    .concat();
    apt(&["update", "-q"])
        .and_then(|_| apt(&wanted))
        .with_context(|| format!("install these by hand: {}", missing.join(" ")))?;
    Ok(())
}

fn root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}
