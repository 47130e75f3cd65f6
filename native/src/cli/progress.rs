//! How far a command is: a bar on a terminal, qemu-img's percentages elsewhere, or JSON lines.

use super::output;
use super::signal;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Style {
    /// A bar on a terminal, percentages elsewhere
    Human,
    /// A line of JSON on standard error for each step: {"done": bytes, "total": bytes}
    Json,
}

/// The option `-p`.
#[derive(Debug, clap::Args)]
pub(super) struct ProgressArgs {
    /// Show progress: a bar on a terminal, percentages elsewhere, or JSON lines on standard error
    #[arg(
        short = 'p',
        long,
        value_name = "STYLE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "human",
        value_enum
    )]
    progress: Option<Style>,
}

/// Shows how far one command is.
#[derive(Clone, Debug)]
pub(super) struct Meter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    done: AtomicU64,
    total: AtomicU64,
    /// Hundredths of a per cent shown last, and one: 0 is nothing yet.
    shown: AtomicU64,
    display: Display,
}

#[derive(Debug)]
enum Display {
    /// Only when asked by SIGUSR1.
    OnRequest,
    Bar(ProgressBar),
    Percent,
    Json,
}

impl Meter {
    /// A meter as the options want it. Within a runtime.
    pub(super) fn new(args: &ProgressArgs, quiet: bool) -> Self {
        let display = match args.progress.filter(|_| !quiet) {
            None => Display::OnRequest,
            Some(Style::Json) => Display::Json,
            Some(Style::Human) if std::io::stderr().is_terminal() => Display::Bar(bar()),
            Some(Style::Human) => Display::Percent,
        };
        let zero = || AtomicU64::new(0);
        let inner = Inner { done: zero(), total: zero(), shown: zero(), display };
        let meter = Self(Arc::new(inner));
        let asked = meter.clone();
        signal::on_user_signal(move || asked.answer());
        meter
    }

    /// So much is done, of so much in all.
    pub(super) fn tell(&self, done: u64, total: u64) {
        self.0.done.store(done, Ordering::Relaxed);
        self.0.total.store(total, Ordering::Relaxed);
        match &self.0.display {
            Display::OnRequest => {}
            Display::Bar(bar) => {
                if bar.length() != Some(total) {
                    bar.set_length(total);
                }
                bar.set_position(done);
            }
            Display::Percent => {
                if self.is_step() {
                    // Progress is a courtesy: a reader that went away is found out elsewhere.
                    let _ = output::print(&format!("    ({}/100%)\r", percent(done, total)));
                }
            }
            Display::Json => {
                if self.is_step() {
                    output::complain(&format!("{{\"done\": {done}, \"total\": {total}}}"));
                }
            }
        }
    }

    /// True once for each per cent.
    fn is_step(&self) -> bool {
        let (done, total) = (&self.0.done, &self.0.total);
        let now = 1 + hundredths(done.load(Ordering::Relaxed), total.load(Ordering::Relaxed));
        let last = self.0.shown.load(Ordering::Relaxed);
        let due = last == 0 || now >= last + 100 || (now == 10_001 && last != now);
        due && self
            .0
            .shown
            .compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Somebody asked.
    fn answer(&self) {
        let (done, total) = (&self.0.done, &self.0.total);
        let (done, total) = (done.load(Ordering::Relaxed), total.load(Ordering::Relaxed));
        let _ = match &self.0.display {
            Display::OnRequest => output::print(&format!("    ({}/100%)\n", percent(done, total))),
            Display::Bar(_) | Display::Percent | Display::Json => Ok(()),
        };
    }

    /// Takes the display away, so that other things can be printed.
    pub(super) fn finish(&self) {
        match &self.0.display {
            Display::Bar(bar) => bar.finish_and_clear(),
            Display::Percent => {
                let _ = output::print("\n");
            }
            Display::OnRequest | Display::Json => {}
        }
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
    let template = "{percent:>3}% [{bar:40}] {binary_bytes}/{binary_total_bytes} \
                    {binary_bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn hundredths(done: u64, total: u64) -> u64 {
    match total {
        0 => 0,
        // At most 10000, as the smaller of the two is divided.
        _ => (u128::from(done.min(total)) * 10_000 / u128::from(total)) as u64,
    }
}

fn percent(done: u64, total: u64) -> String {
    let part = hundredths(done, total);
    format!("{}.{:02}", part / 100, part % 100)
}
