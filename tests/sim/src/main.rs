//! The engine in a simulated world: one seed is one run, exactly repeatable. See docs/simulation.md.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a program of tests: what does not hold ends it, and it speaks to whoever runs it"
)]

mod chance;
mod database;
mod definitions;
mod fault;
mod life;
mod line;
mod model;
mod moment;
mod people;
mod plant;
mod rules;
mod systems;
#[cfg(test)]
mod tests;
mod trace;
mod worker;
mod world;

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use clap::Parser;

use crate::fault::Fault;
use crate::plant::Plant;
use crate::world::{Verdict, run};

/// The longest a world may take on a machine that is busy; a second is usual.
const WORLD_TIME_MAX: Duration = Duration::from_secs(90);

/// Runs the engine in simulated worlds and checks what must always hold.
///
/// A seed is a whole world: what runs, what goes wrong and when. The same seed is the same run, to the last line.
#[derive(Parser)]
#[command(
    name = "tenure-sim",
    after_help = "\
Examples:
  tenure-sim --seeds 0..2000              two thousand worlds
  tenure-sim --seeds 0..  --minutes 60    an hour of worlds
  tenure-sim --seed 17 --trace            one of them, line by line
  tenure-sim --plant no-epoch-fence       with a bug planted: it must be found"
)]
struct Arguments {
    /// The first seed and the one after the last, as `A..B`; without `B` it does not end by itself.
    #[arg(long, value_parser = seeds, default_value = "0..200")]
    seeds: Range<u64>,
    /// One seed only.
    #[arg(long, conflicts_with = "seeds")]
    seed: Option<u64>,
    /// Ends after so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// How many worlds run side by side; as many as there are processors without it.
    #[arg(long)]
    jobs: Option<usize>,
    /// Prints every line of what happens.
    #[arg(long)]
    trace: bool,
    /// Prints a line for each world.
    #[arg(long, short)]
    verbose: bool,
    /// Goes on after a world in which something does not hold, and tells of each in one line.
    #[arg(long)]
    all: bool,
    /// Plants a bug, to see it found.
    #[arg(long, value_enum)]
    plant: Option<Plant>,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let wrong =
        || format!("`{text}` is no range of seeds; write for example `0..1000` or `5000..`");
    let (first, last) = text.split_once("..").ok_or_else(wrong)?;
    let first = first.parse().map_err(|_| wrong())?;
    let last = match last {
        "" => u64::MAX,
        last => last.parse().map_err(|_| wrong())?,
    };
    Ok(first..last)
}

/// What all worlds together came to.
#[derive(Default)]
struct Sum {
    worlds: u64,
    cases: u64,
    inputs: BTreeMap<String, u64>,
    virtual_time: Duration,
    struck: BTreeMap<Fault, u64>,
    failed: Vec<Verdict>,
}

impl Sum {
    fn add(&mut self, verdict: Verdict) {
        self.worlds += 1;
        self.cases += verdict.cases;
        for (input, count) in &verdict.inputs {
            *self.inputs.entry(input.clone()).or_default() += count;
        }
        self.virtual_time += verdict.virtual_time;
        for (fault, count) in &verdict.struck {
            *self.struck.entry(*fault).or_default() += count;
        }
        if verdict.wrong.is_some() {
            self.failed.push(verdict);
        }
    }

    fn print(&self, took: Duration) {
        println!("{:<58} {:>12}", "fault", "struck");
        for fault in Fault::ALL {
            let count = self.struck.get(fault).copied().unwrap_or(0);
            println!("{:<58} {count:>12}", fault.name());
        }
        println!("{:<58} {:>12}", "input", "transitions");
        for (input, count) in &self.inputs {
            println!("{input:<58} {count:>12}");
        }
        let seconds = took.as_secs_f64().max(0.001);
        println!(
            "{} worlds in {:.1} s ({:.0} a second), {} cases, {} transitions, {:.1} simulated hours",
            self.worlds,
            seconds,
            self.worlds as f64 / seconds,
            self.cases,
            self.inputs.values().sum::<u64>(),
            self.virtual_time.as_secs_f64() / 3_600.0
        );
    }
}

/// A world in which something spins never ends: time passes only when everybody waits.
fn watch(seed: u64) -> mpsc::Sender<()> {
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        if end.recv_timeout(WORLD_TIME_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
            println!("seed {seed}: not over after {WORLD_TIME_MAX:?}: something spins");
            println!("again, line by line: tenure-sim --seed {seed} --trace");
            std::process::exit(1);
        }
    });
    ended
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let range = match arguments.seed {
        Some(seed) => seed..seed + 1,
        None => arguments.seeds.clone(),
    };
    let jobs = arguments
        .jobs
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1);
    let began = tokio::time::Instant::now();
    let limit = arguments
        .minutes
        .map(|minutes| Duration::from_secs(minutes * 60));
    let (next, ends) = (AtomicU64::new(range.start), AtomicBool::new(false));
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while !ends.load(Ordering::SeqCst) {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= range.end || limit.is_some_and(|limit| began.elapsed() > limit) {
                        return;
                    }
                    let watched = watch(seed);
                    let verdict = run(seed, arguments.plant, arguments.trace);
                    drop(watched);
                    if arguments.verbose || arguments.seed.is_some() {
                        println!(
                            "seed {seed}: hash {:016x}, {} cases, {} transitions, {:.1} s simulated",
                            verdict.hash,
                            verdict.cases,
                            verdict.transitions(),
                            verdict.virtual_time.as_secs_f64()
                        );
                    }
                    match &verdict.wrong {
                        Some(wrong) if arguments.all => println!("seed {seed}: {wrong}"),
                        Some(_) => ends.store(true, Ordering::SeqCst),
                        None => {}
                    }
                    let mut sum = sum.lock().unwrap();
                    sum.add(verdict);
                    if sum.worlds % 1_000 == 0 {
                        println!("{} worlds, {:.0} s", sum.worlds, began.elapsed().as_secs_f64());
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap();
    sum.print(began.elapsed());
    for verdict in sum.failed.iter().filter(|_| !arguments.all) {
        println!();
        for line in &verdict.tail {
            println!("{line}");
        }
        println!(
            "seed {}: {}",
            verdict.seed,
            verdict.wrong.as_deref().unwrap_or_default()
        );
        println!(
            "again, line by line: tenure-sim --seed {} --trace",
            verdict.seed
        );
    }
    if sum.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
