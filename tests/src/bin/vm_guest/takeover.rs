//! A service whose user was taken over: it puts links to root's files in place of its own while root stops and starts the
//! service.

use std::{
    fs,
    path::Path,
    process::{Child, Command},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    machine::{self, run},
    service::Service,
};

/// Files of root's.
const FILE: &str = "/etc/lab-victim";
const FOLDER: &str = "/etc/lab-victims";
const CONTENTS: &str = "of root's\n";
/// What the user runs, again and again.
const ATTACK: &str = r#"
cd /run/tcpguard || exit 1
while :; do
    for folder in pins/netns-*; do
        number=${folder##*-}
        printf '{"namespace":%s,"settings":[{"name":"/etc/lab-victim","original":"0","value":"of root'"'"'s"}],"cookies_until":0}' \
            "$number" > "kernel-settings.$number.tmp"
        mv -f "kernel-settings.$number.tmp" "kernel-settings.$number.json"
        ln -sfn /etc/lab-victim "kernel-settings.$number.new"
        ln -sfn /etc/lab-victim "kernel-settings.$number.json"
        for name in links maps; do
            mv -T "$folder/$name" "$folder/$name.kept" && ln -s "/etc/lab-victims/$name" "$folder/$name"
            rm -f "$folder/$name"
            mv -T "$folder/$name.kept" "$folder/$name"
        done
        ln -sfn /etc/lab-victims "pins/netns-$((number + 1))"
    done
    for name in tcpguard.sqlite-journal tcpguard.sqlite-wal tcpguard.sqlite-shm; do
        ln -sfn /etc/lab-victim "/var/lib/tcpguard/$name"
    done
    ln -sfn /etc/lab-victim /run/tcpguard/tcpguard.sock.new
done
"#;
const SCRIPT: &str = "/run/lab-attack.sh";

/// Checks that root neither reads, changes nor removes its files on the way.
pub fn is_confined(service: &Service) -> Result<()> {
    fs::write(FILE, CONTENTS).context("cannot write the file")?;
    for name in ["links", "maps"] {
        let folder = Path::new(FOLDER).join(name);
        fs::create_dir_all(&folder).context("cannot create the folder")?;
        fs::write(folder.join("file"), CONTENTS).context("cannot write the file")?;
    }
    run(&format!("chmod 0600 {FILE}"))?;
    fs::write(SCRIPT, ATTACK).context("cannot write the script")?;
    let mut attack = attack(service)?;
    for _ in 0..4 {
        thread::sleep(Duration::from_secs(1));
        run("systemctl stop tcpguard")?;
        // What the user put there may keep the daemon from starting.
        run("systemctl start tcpguard").ok();
        run("systemctl reset-failed tcpguard").ok();
    }
    attack.kill().context("cannot end the attack")?;
    attack.wait().context("cannot end the attack")?;
    intact(FILE)?;
    ["links", "maps"].iter().try_for_each(|name| intact(&format!("{FOLDER}/{name}/file")))?;
    recovers(service)
}

/// Runs the script as the service's user, in the service's mount namespace.
fn attack(service: &Service) -> Result<Child> {
    let process = service.process()?.to_string();
    let mut command = Command::new("nsenter");
    command.args(["-t", &process, "-m", "--", "setpriv", "--reuid=tcpguard", "--regid=tcpguard", "--clear-groups"]);
    command.args(["sh", SCRIPT]).stderr(std::process::Stdio::null());
    command.spawn().context("cannot run the attack")
}

fn intact(file: &str) -> Result<()> {
    let contents = fs::read_to_string(file).with_context(|| format!("{file} is gone"))?;
    ensure!(contents == CONTENTS, "{file} was changed to {contents:?}");
    Ok(())
}

/// Removes what the attack left behind, after which the service works as before.
fn recovers(service: &Service) -> Result<()> {
    run("systemctl stop tcpguard").ok();
    run("find /var/lib/tcpguard /run/tcpguard /sys/fs/bpf/tcpguard -type l -delete")?;
    run("find /run/tcpguard -name kernel-settings* -delete")?;
    // The attack replaced the journal, and with it the original values. The service's user may change these settings.
    for (setting, original) in machine::ORIGINAL_SETTINGS {
        fs::write(format!("/proc/sys/net/{setting}"), original).context("cannot restore a kernel setting")?;
    }
    run("systemctl start tcpguard")?;
    service.is_active_and_unprivileged()
}
