//! Building the dashboard, from tcpguard's build script: with Node.js where there is one, else a page that
//! says that there was none.

use std::{
    env, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};

use crate::{
    bpf::toolchain::{target_folder, workspace},
    sources::hash_of,
};

/// `require` makes it an error where the dashboard cannot be built, and `skip` leaves it out.
pub const VARIABLE: &str = "TCPGUARD_DASHBOARD";
const FOLDER: &str = "tcpguard/dashboard";
/// What the build needs.
const SOURCES: [&str; 4] = ["package.json", "package-lock.json", "tsconfig.json", "src"];

/// For tcpguard's build script: puts `index.html`, `app.js` and `app.css` into `OUT_DIR/dashboard`. Without Node.js,
/// or without the feature `dashboard`, the page is one that says so; a failure that must not be ends the build with one sentence.
pub fn build_script() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    println!("cargo::rerun-if-changed={}", workspace().join(FOLDER).display());
    let wish = env::var(VARIABLE).unwrap_or_default();
    let is_left_out = wish == "skip" || env::var_os("CARGO_FEATURE_DASHBOARD").is_none();
    let built = out_folder().and_then(|out| if is_left_out { write_without(&out) } else { write(&wish, &out) });
    if let Err(error) = built {
        println!("cargo::error={}", format!("{error:#}").replace('\n', " "));
        std::process::exit(1);
    }
}

fn write(wish: &str, out: &Path) -> Result<()> {
    let sources = hash_of(&workspace(), &[FOLDER]).context("the dashboard's sources cannot be read")?;
    let stamp = out.join("sources");
    // The build script also runs for changes that are none of the dashboard's.
    if fs::read_to_string(&stamp).is_ok_and(|built_from| built_from == sources) {
        return Ok(());
    }
    match bundle() {
        Ok(bundled) => {
            copy(&workspace().join(FOLDER).join("index.html"), &out.join("index.html"))?;
            copy(&bundled.join("app.js"), &out.join("app.js"))?;
            copy(&bundled.join("app.css"), &out.join("app.css"))?;
            fs::write(&stamp, sources).context("cannot write to OUT_DIR")
        }
        Err(error) if wish == "require" => Err(error),
        Err(error) => {
            let reason = format!("{error:#}").replace('\n', " ");
            println!("cargo::warning=this tcpguard will have no dashboard: {reason}");
            write_without(out)
        }
    }
}

fn write_without(out: &Path) -> Result<()> {
    let folder = workspace().join(FOLDER);
    // The next build tries again.
    fs::remove_file(out.join("sources")).or_else(|error| match error.kind() {
        ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    copy(&folder.join("without.html"), &out.join("index.html"))?;
    copy(&folder.join("src/style.css"), &out.join("app.css"))?;
    fs::write(out.join("app.js"), "").context("cannot write to OUT_DIR")
}

fn out_folder() -> Result<PathBuf> {
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set: this is for build scripts")?);
    let folder = out.join("dashboard");
    fs::create_dir_all(&folder).context("cannot make a folder in OUT_DIR")?;
    Ok(folder)
}

/// Bundles the dashboard with what it is made of; returns where to. All profiles share one folder, since
/// installing takes longer than bundling.
fn bundle() -> Result<PathBuf> {
    let (folder, build) = (workspace().join(FOLDER), target_folder().join("dashboard"));
    fs::create_dir_all(&build).with_context(|| format!("cannot make {}", build.display()))?;
    let _turn = lock(&build)?;
    let is_installed = fs::read(build.join("installed")).ok() == fs::read(folder.join("package-lock.json")).ok();
    for source in SOURCES {
        run(Command::new("cp").arg("-r").arg(folder.join(source)).arg(&build))?;
    }
    if !is_installed {
        // Packages' own scripts are not run: none is needed.
        run(npm(&build).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]))?;
        copy(&folder.join("package-lock.json"), &build.join("installed"))?;
    }
    run(npm(&build).args(["run", "--silent", "build"]))?;
    Ok(build.join("out"))
}

/// Checks the types of the dashboard's sources.
///
/// # Errors
/// Where they are wrong, or Node.js is missing.
pub fn check() -> Result<()> {
    bundle()?;
    run(npm(&target_folder().join("dashboard")).args(["run", "--silent", "check"]))
}

/// Builds of several profiles may go on at once.
fn lock(build: &Path) -> Result<Flock<fs::File>> {
    let file = fs::File::create(build.join("lock")).context("cannot make a lock for the dashboard's build")?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).context("cannot lock the dashboard's build")
}

fn npm(folder: &Path) -> Command {
    let mut npm = Command::new("npm");
    npm.current_dir(folder);
    npm
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.output().with_context(|| format!("{program} cannot be run (install Node.js 18 or later, with npm)"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{program} failed: {}", String::from_utf8_lossy(&said).trim());
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display())).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_node_the_page_says_so() {
        let out = env::temp_dir().join(format!("tcpguard-dashboard-{}", std::process::id()));
        fs::create_dir_all(&out).expect("a folder");
        write_without(&out).expect("written");
        let page = fs::read_to_string(out.join("index.html")).expect("a page");
        let style = fs::read_to_string(out.join("app.css")).expect("a style");
        let has_script = page.contains("<script");
        fs::remove_dir_all(&out).expect("removed");
        assert!(page.contains("has no dashboard") && page.contains("Node.js") && page.contains("/stats"), "{page}");
        assert!(!has_script && style.contains(".plain"));
    }
}
