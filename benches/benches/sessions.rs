//! What sessions cost: a packet whose rules ask for users; and everybody else's packets, when there are a hundred thousand
//! sessions and ten thousand changes of them a second. In about a minute: `cargo bench -p bulkhead-benches --bench sessions`.
//!
//! Every rule asks for a user, so every packet belongs to a session, none of which changes. Beside them a thread begins,
//! changes and ends other sessions, each published to the worker as the engine does it. What is compared is time on the CPU
//! of the thread that judges packets, in three kinds of rounds in turn: alone; beside a thread that only counts, for as long
//! as the changes take; beside the changes. CPUs share more than their memory, so being beside somebody costs by itself,
//! whatever is done there. What the changes cost their own thread is told as well.

mod generated;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bulkhead::model;
use bulkhead::sessions::{Claims, Factor, Moment, New, Proof, Sessions, Which, later};
use bulkhead_benches::clock::{at, cpu};
use bulkhead_benches::gateway::{Gateway, host_mac};
use bulkhead_benches::rule_set;
use bulkhead_benches::traffic::{Connection, Kind, Step, Traffic, connections};
use bulkhead_dataplane::policy::{Policy, RuleSet, compile};
use bulkhead_dataplane::snapshot::{Mailbox, Snapshot};
use bulkhead_dataplane::verdict::Now;
use generated::toml;

const RULES: usize = 1_000;
const CONNECTIONS: usize = 65_536;
const SESSIONS: usize = 100_000;
const CHANGES_A_SECOND: u32 = 10_000;
const ROUNDS: usize = 31;
const ROUND: Duration = Duration::from_millis(200);
/// Packets between two readings of the CPU's clock.
const BATCH: u64 = 4_096;
/// When everything begins, by the packet path's clock.
const BEGIN: Now = Now(1_000_000_000);

fn main() {
    let rules = rule_set(RULES);
    let plain = compile(&rules).expect("the generated rule set compiles");
    let connections = connections(&rules, &plain, Kind::Tcp4, CONNECTIONS);
    let text = toml(&rules).replace("owner = ", "users = \"any\"\nowner = ");
    // Its tests ask for nobody.
    let text = text.split("\n[[test]]").next().expect("there is a first part");
    let model = Arc::new(model::parse("sessions.toml", text).expect("the generated file is right"));
    let mut policy = model.compile().expect("it compiles");
    let sessions = Sessions::new(SESSIONS + CONNECTIONS);
    sessions.put_in_force(&model, &mut policy, BEGIN);

    let others: Vec<IpAddr> = (0..SESSIONS as u32).map(other).collect();
    begin_all(&sessions, &others);
    let mut sources: Vec<IpAddr> =
        connections.iter().map(|connection: &Connection| connection.source).collect();
    sources.sort_unstable();
    sources.dedup();
    for source in sources {
        // They are on the links of the ports, so that it is looked from which device their packets come.
        let session = New { mac: Some(host_mac(source)), ..new(source, 0) };
        sessions.begin(session, BEGIN).expect("there is room");
    }

    println!(
        "\n| established connections | ns of CPU time per packet under rules that ask for nothing | for users | more (median of the rounds) |"
    );
    println!("|---:|---:|---:|---:|");
    for count in [1, 1_024, CONNECTIONS] {
        price(&rules, &plain, &policy, &connections[..count]);
    }

    let gateway = established(policy, &rules, &connections);
    disturb(gateway, &sessions, &others);
    println!("Resident now: {} MiB", resident_bytes() >> 20);
}

/// Begins the sessions that send nothing, and tells what they take.
fn begin_all(sessions: &Sessions, others: &[IpAddr]) {
    let (memory, began) = (resident_bytes(), cpu());
    for (number, address) in others.iter().enumerate() {
        sessions.begin(new(*address, number), BEGIN).expect("there is room");
    }
    let (memory, took) = (resident_bytes() - memory, cpu() - began);
    println!(
        "{SESSIONS} sessions under {RULES} rules: {:.0} bytes each, all included; {:.1} us of CPU time to begin one",
        memory as f64 / SESSIONS as f64,
        took.as_secs_f64() * 1e6 / SESSIONS as f64
    );
}

/// What changes of others' sessions cost packets.
fn disturb((mut gateway, data): (Gateway, Traffic), sessions: &Sessions, others: &[IpAddr]) {
    let mailbox = gateway.mailbox().clone();
    let (mut costs, mut ratios, mut changed) =
        ([const { Vec::new() }; 3], [const { Vec::new() }; 2], Changed::default());
    for number in 0..ROUNDS {
        let over = AtomicBool::new(false);
        let first = Snapshot::clone(gateway.snapshot());
        let alone = round(&mut gateway, &data);
        let beside_counting = std::thread::scope(|scope| {
            let (average, over) = (changed.average(), &over);
            scope.spawn(move || count(average, over));
            let costs = round(&mut gateway, &data);
            over.store(true, Ordering::Relaxed);
            costs
        });
        let over = AtomicBool::new(false);
        let beside_changes = std::thread::scope(|scope| {
            let changing = scope.spawn(|| change(sessions, others, first, &mailbox, &over));
            let costs = round(&mut gateway, &data);
            over.store(true, Ordering::Relaxed);
            // Whoever changes waits for the packet path, as the engine does.
            while !changing.is_finished() {
                gateway.forward(&data, BATCH);
            }
            changed.add(changing.join().expect("it does not panic"));
            costs
        });
        // The first tells only how long the second thread has to count.
        if number > 0 {
            let rounds = [alone, beside_counting, beside_changes];
            let medians = rounds.each_ref().map(|costs| median(costs));
            ratios[0].push(medians[2] / medians[0]);
            ratios[1].push(medians[2] / medians[1]);
            costs.iter_mut().zip(rounds).for_each(|(costs, round)| costs.extend(round));
        }
    }
    tell(costs, ratios, changed);
}

/// Tells what packets cost alone, beside a thread that counts and beside the changes; and what the last is to the others.
fn tell(mut costs: [Vec<f64>; 3], mut ratios: [Vec<f64>; 2], mut changed: Changed) {
    println!(
        "{:.0} changes a second: {:.1} us of CPU time each; p99 until the worker judges by one {:.2} ms",
        changed.count as f64 / changed.wall.as_secs_f64(),
        changed.average().as_secs_f64() * 1e6,
        at(&mut changed.waits, 0.99) * 1e3
    );
    println!("\n| ns of CPU time per packet | median | p99 of {BATCH} packets |\n|---|---:|---:|");
    for (name, costs) in ["alone", "beside a thread that counts", "beside the changes"].iter().zip(&mut costs)
    {
        println!("| {name} | {:.1} | {:.1} |", at(costs, 0.5), at(costs, 0.99));
    }
    let [alone, counting] = ratios.each_mut().map(|ratios| at(ratios, 0.5));
    println!(
        "\nMedians of the rounds' ratios, beside the changes to the others: alone {alone:.3}, counting {counting:.3}"
    );
}

/// A gateway with these connections, and a data packet for each.
fn established(policy: Policy, rules: &RuleSet, connections: &[Connection]) -> (Gateway, Traffic) {
    let mut gateway = Gateway::judging_by(policy, rules, connections.len());
    for step in [Step::Open, Step::Accept, Step::Confirm] {
        gateway.forward_all(&Traffic::new(Kind::Tcp4, connections, step));
    }
    (gateway, Traffic::new(Kind::Tcp4, connections, Step::Data))
}

/// What packets of established connections cost more because their rules ask for users, nobody changing anything.
fn price(rules: &RuleSet, plain: &Policy, asking: &Policy, connections: &[Connection]) {
    let (mut of_plain, data) = established(plain.clone(), rules, connections);
    let (mut of_asking, _) = established(asking.clone(), rules, connections);
    let (mut costs, mut more) = ([const { Vec::new() }; 2], Vec::new());
    for _ in 0..ROUNDS {
        let rounds = [median(&round(&mut of_plain, &data)), median(&round(&mut of_asking, &data))];
        more.push(rounds[1] - rounds[0]);
        costs.iter_mut().zip(rounds).for_each(|(costs, round)| costs.push(round));
    }
    let [plain, asking] = costs.each_mut().map(|costs| at(costs, 0.5));
    println!("| {} | {plain:.1} | {asking:.1} | {:+.1} |", connections.len(), at(&mut more, 0.5));
}

/// The address of a session that sends nothing: hosts of the networks of IPv6, of which the connections have none.
fn other(number: u32) -> IpAddr {
    let (segment, host) = (u128::from(number % 16), u128::from(1_000 + number / 16));
    Ipv6Addr::from_bits(0xfd00 << 112 | segment << 64 | host).into()
}

fn new(address: IpAddr, number: usize) -> New {
    let factor = Factor { shown: Moment::before(BEGIN, Duration::from_secs(60)), phishing_resistant: false };
    let groups = vec!["staff".to_owned(), format!("team-{}", number % 40)];
    let claims =
        Claims { user: Some(format!("user-{number}")), groups, factor: Some(factor), ..Claims::default() };
    New {
        address,
        mac: None,
        claims,
        proof: Proof::Password,
        ends: later(BEGIN, Duration::from_secs(36_000)),
    }
}

/// What packets cost for a while, batch by batch, nanoseconds each.
fn round(gateway: &mut Gateway, data: &Traffic) -> Vec<f64> {
    let (began, mut costs) = (Instant::now(), Vec::new());
    while began.elapsed() < ROUND {
        let cost = gateway.forward(data, BATCH);
        costs.push(cost.cpu.as_nanos() as f64 / cost.packets as f64);
    }
    costs
}

/// What changes have cost.
#[derive(Default)]
struct Changed {
    count: u64,
    cpu: Duration,
    wall: Duration,
    /// From the change until the worker judges by it, seconds.
    waits: Vec<f64>,
}

impl Changed {
    /// CPU time of one.
    fn average(&self) -> Duration {
        self.cpu.checked_div(self.count as u32).unwrap_or(Duration::ZERO)
    }

    fn add(&mut self, more: Changed) {
        self.count += more.count;
        self.cpu += more.cpu;
        self.wall += more.wall;
        self.waits.extend(more.waits);
    }
}

/// Has somebody act so often, until it is over: `act` is told how often is due, and says how often it did.
fn often(over: &AtomicBool, mut act: impl FnMut(u64) -> u64) {
    let (began, mut done) = (Instant::now(), 0);
    while !over.load(Ordering::Relaxed) {
        let due = (began.elapsed().as_secs_f64() * f64::from(CHANGES_A_SECOND)) as u64;
        match due.saturating_sub(done) {
            0 => std::thread::sleep(Duration::from_micros(200)),
            left => done += act(left),
        }
    }
}

/// Counts as often and as long as somebody who changes something, each time for so much CPU time.
fn count(each: Duration, over: &AtomicBool) {
    often(over, |due| {
        let until = cpu() + each * due as u32;
        while cpu() < until {
            (0..1_000_u32).for_each(|number| {
                std::hint::black_box(number);
            });
        }
        due
    });
}

/// Changes sessions, and has the worker judge by each change.
fn change(
    sessions: &Sessions,
    others: &[IpAddr],
    mut snapshot: Snapshot,
    mailbox: &Mailbox,
    over: &AtomicBool,
) -> Changed {
    let (began, began_cpu, mut changed) = (Instant::now(), cpu(), Changed::default());
    // The engine's way to wait.
    let wait = |version| {
        while mailbox.acknowledged() != version {
            std::thread::sleep(Duration::from_micros(20));
        }
    };
    often(over, |due| {
        let (asked, now) = (Instant::now(), later(BEGIN, began.elapsed()));
        let done = change_one(sessions, others, changed.count, now);
        changed.count += done;
        snapshot.version += 1;
        mailbox.post(Arc::new(snapshot.clone()));
        // For the last of those that are due now.
        if done >= due {
            wait(snapshot.version);
            changed.waits.push(asked.elapsed().as_secs_f64());
            sessions.follow(now);
        }
        done
    });
    if changed.count > 0 {
        wait(snapshot.version);
    }
    (changed.cpu, changed.wall) = (cpu() - began_cpu, began.elapsed());
    changed
}

/// Of four changes one ends a session, one begins it again, and two tell that a factor was shown anew. How many it made.
fn change_one(sessions: &Sessions, others: &[IpAddr], made: u64, now: Now) -> u64 {
    let number = made as usize * 7_919 % others.len();
    let address = others[number];
    if made.is_multiple_of(4) {
        let which = Which { address: Some(address), ..Which::default() };
        assert_eq!(sessions.end(&which).len(), 1);
        sessions.begin(new(address, number), now).expect("its place is free");
        return 2;
    }
    let id = sessions.of(address, now).expect("it is there").id.clone();
    let factor = Some(Factor { shown: Moment::before(now, Duration::ZERO), phishing_resistant: false });
    sessions.amend(address, &id, now, |claims| claims.factor = factor).expect("it is there");
    1
}

fn median(costs: &[f64]) -> f64 {
    at(&mut costs.to_vec(), 0.5)
}

/// What this process has in memory.
fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux has this file");
    let pages = text.split_whitespace().nth(1).and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("its second number") * 4096
}
