//! A page in a real browser without a screen.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A browser that hangs is ended after this.
const PATIENCE: Duration = Duration::from_secs(120);

/// Names that Chromium goes by.
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// Opens a page at each size and hands over what its scripts made of it. A word on the console fails the test.
pub(crate) fn check(html: &str, sizes: &[(u32, u32)], look: impl Fn(&str)) {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let installed = |name: &&str| std::env::split_paths(&paths).any(|directory| directory.join(name).exists());
    let Some(browser) = NAMES.iter().copied().find(installed) else {
        assert!(std::env::var_os("CI").is_none(), "no Chromium is installed");
        let _ = writeln!(std::io::stdout(), "skipped: what a browser makes of the page (no Chromium is installed)");
        return;
    };
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("report.html");
    fs_err::write(&path, html).unwrap();
    for size in sizes {
        let (page, console) = open(browser, &path, *size, &directory.path().join("profile"));
        let said: Vec<&str> = console.lines().filter(|line| line.contains("CONSOLE")).collect();
        assert!(said.is_empty(), "{said:?}");
        look(&page);
    }
}

fn open(browser: &str, page: &Path, (width, height): (u32, u32), profile: &Path) -> (String, String) {
    let output = profile.with_extension("dom");
    let console = profile.with_extension("console");
    let mut child = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-extensions"])
        .args(["--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("--window-size={width},{height}"))
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .stdout(fs_err::File::create(&output).unwrap().into_parts().0)
        .stderr(fs_err::File::create(&console).unwrap().into_parts().0)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{browser} did not end within {PATIENCE:?}: {}", text(&console));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    (text(&output), text(&console))
}

fn text(path: &Path) -> String {
    let mut bytes = Vec::new();
    fs_err::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}
