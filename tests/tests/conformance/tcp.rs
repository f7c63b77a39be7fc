//! Group W: TCP state. What needs exact time (W17, W18) is in `dataplane/tests/pipeline/timers.rs`.

use bulkhead_tests::config::{Config, allow, deny};
use bulkhead_tests::dialogue::{
    Client, End, Server, Stage, WINDOW, ack, data, fin, rst, segment, syn, syn_ack,
};
use bulkhead_tests::frames::{Family, flags};
use bulkhead_tests::scene::number;
use bulkhead_tests::wait_until;
use bulkhead_tests::workers::{both_at_once, two_workers};
use etherparse::TcpOptionElement;

const NO_CONNECTION: &str = "no_connection";
const INVALID: &str = "tcp_invalid";
const OUTSIDE: &str = "tcp_out_of_window";
/// Initial sequence numbers of client and server that are far from where numbers wrap.
const INITIAL: [u32; 2] = [1000, 5000];

/// The office may open connections to port 80 of the servers.
fn one_way() -> Option<Stage> {
    Stage::start(&Config::new(allow("web", "office", "servers", "tcp/80")))
}

/// The office may open connections to port 80, and the servers to port 4000 and up.
fn both_ways() -> Option<Stage> {
    let back = allow("back", "servers", "office", "tcp/4000-4999");
    Stage::start(&Config::new(allow("web", "office", "servers", "tcp/80") + &back))
}

#[test]
fn w1_a_segment_without_a_connection_drops_and_creates_none() {
    let Some(stage) = both_ways() else { return };
    for family in Family::BOTH {
        let dialogue = stage.dialogue(family, 4000, 80);
        for from in End::BOTH {
            for lone in [
                ack(77, 88),
                data(77, 88, 10),
                syn_ack(77, 88),
                fin(77, 88),
                rst(77),
                segment(flags::RST | flags::ACK, 77, 88),
            ] {
                dialogue.stays_out(from, lone, NO_CONNECTION);
                assert_eq!(dialogue.state(), None);
            }
        }
    }
}

#[test]
fn w2_a_syn_ack_with_a_wrong_acknowledgement_is_not_forwarded_and_changes_nothing() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        let dialogue = stage.dialogue(family, 4000, 80);
        dialogue.crosses(Client, syn(1000));
        for wrong in [0, 999, 1000, 1002, 500_000, 1001 + (1 << 31)] {
            dialogue.stays_out(Server, syn_ack(5000, wrong), OUTSIDE);
            dialogue.is("syn_sent");
        }
        dialogue.crosses(Server, syn_ack(5000, 1001));
        // An old one, of another number, after the right one.
        dialogue.stays_out(Server, syn_ack(4000, 1001), OUTSIDE);
        dialogue.is("syn_received");
        dialogue.crosses(Client, ack(1001, 5001));
        dialogue.is("established");
    }
}

#[test]
fn w3_a_reset_outside_the_window_drops_and_the_connection_lives() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        let dialogue = stage.open(family, 4000, INITIAL);
        for (from, own) in [(Client, 1001_u32), (Server, 5001)] {
            for off in [u32::from(WINDOW) + 1, 1 << 20, 1 << 31, 0u32.wrapping_sub(u32::from(WINDOW) + 1)] {
                dialogue.stays_out(from, rst(own.wrapping_add(off)), OUTSIDE);
            }
        }
        dialogue.crosses(Client, data(1001, 5001, 10));
        dialogue.crosses(Server, data(5001, 1011, 10));
        dialogue.is("established");
    }
}

/// RFC 5961, section 3. Forwarding it would be as legal, but not every receiver answers it with a challenge ACK.
#[test]
fn w4_an_inexact_reset_in_the_window_is_dropped_and_the_connection_lives() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        let dialogue = stage.open(family, 4000, INITIAL);
        for (from, own, peer) in [(Client, 1001_u32, 5001), (Server, 5001, 1001)] {
            for off in [1, 100, u32::from(WINDOW) - 1, u32::MAX] {
                dialogue.stays_out(from, rst(own.wrapping_add(off)), OUTSIDE);
                let with_ack = segment(flags::RST | flags::ACK, own.wrapping_add(off), peer);
                dialogue.stays_out(from, with_ack, OUTSIDE);
            }
        }
        dialogue.crosses(Server, data(5001, 1001, 10));
        dialogue.is("established");
    }
}

#[test]
fn w5_an_exact_reset_closes_and_data_after_it_drops() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        for (port, from) in [(4000, Client), (4001, Server)] {
            for (port, flags) in [(port, flags::RST), (port + 10, flags::RST | flags::ACK)] {
                let dialogue = stage.open(family, port, INITIAL);
                let (own, peer) = if from == Client { (1001, 5001) } else { (5001, 1001) };
                dialogue.crosses(from, segment(flags, own, peer));
                dialogue.is("closed");
                dialogue.stays_out(from, data(own, peer, 10), INVALID);
                dialogue.stays_out(from.other(), data(peer, own, 10), INVALID);
                dialogue.stays_out(from.other(), fin(peer, own), INVALID);
            }
        }
    }
}

#[test]
fn w6_a_forged_reset_with_ack_0_half_a_window_behind_leaves_the_connection_alive() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        let dialogue = stage.open(family, 4000, INITIAL);
        for from in End::BOTH {
            let (own, peer) = if from == Client { (1001_u32, 5001) } else { (5001, 1001) };
            let behind = own.wrapping_sub(u32::from(WINDOW) / 2);
            dialogue.stays_out(from, segment(flags::RST | flags::ACK, behind, 0), OUTSIDE);
            dialogue.stays_out(from, rst(behind), OUTSIDE);
            dialogue.crosses(from, ack(own, peer));
        }
        dialogue.is("established");
    }
}

#[test]
fn w7_a_reset_before_a_gap_closes() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        // Data was lost before us: the server still expects 1001, and answers so; the reset has that number.
        let dialogue = stage.open(family, 4000, INITIAL);
        dialogue.crosses(Client, data(3001, 5001, 1000));
        dialogue.crosses(Server, ack(5001, 1001));
        dialogue.crosses(Client, rst(1001));
        dialogue.is("closed");
    }
}

/// The reset is exact to us and not to the server, for which something before it was lost.
#[test]
fn w7_a_reset_behind_a_gap_is_challenged_across_the_closed_connection_and_repeated() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        let dialogue = stage.open(family, 4000, INITIAL);
        dialogue.crosses(Client, data(1001, 5001, 1000));
        dialogue.crosses(Client, rst(2001));
        dialogue.is("closed");
        dialogue.crosses(Server, ack(5001, 1001));
        dialogue.crosses(Client, rst(1001));
        dialogue.stays_out(Client, rst(1500), OUTSIDE);
        dialogue.stays_out(Server, data(5001, 1001, 1), INVALID);
        dialogue.is("closed");
    }
}

#[test]
fn w8_an_inexact_reset_after_its_senders_fin_closes_and_one_of_the_other_end_does_not() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        for (port, from) in [(4000, Client), (4001, Server)] {
            let dialogue = stage.open(family, port, INITIAL);
            let (own, peer) = if from == Client { (1001, 5001) } else { (5001, 1001) };
            dialogue.crosses(from, data(own, peer, 500));
            dialogue.crosses(from, fin(own + 500, peer));
            dialogue.stays_out(from.other(), rst(peer + 1), OUTSIDE);
            dialogue.stays_out(from, rst(own + 20_000), OUTSIDE);
            // The closed socket answers late data with the number that this acknowledges.
            dialogue.crosses(from.other(), data(peer, own + 100, 50));
            dialogue.crosses(from, rst(own + 100));
            dialogue.is("closed");
        }
    }
}

/// The four bounds of G. van Rooij at their edges and one beyond, from these initial sequence numbers, with these
/// shifts of the windows. The windows are of 10,000 bytes as sent, so the scaled ones are larger.
fn bounds(stage: &Stage, family: Family, port: u16, initial: [u32; 2], shifts: [Option<u8>; 2]) {
    let dialogue = stage.dialogue(family, port, 80);
    dialogue.handshake(initial, shifts);
    let next = initial.map(|number| number.wrapping_add(1));
    // Each tells its window once more, now scaled.
    dialogue.crosses(Client, ack(next[0], next[1]));
    dialogue.crosses(Server, ack(next[1], next[0]));
    let is_scaled = shifts.iter().all(Option::is_some);
    let windows = shifts.map(|shift| u32::from(WINDOW) << shift.filter(|_| is_scaled).unwrap_or(0));
    for from in End::BOTH {
        let (me, it) = (from as usize, from.other() as usize);
        let (own, peer) = (next[me], next[it]);
        // I: not beyond what the receiver has granted. II: not older than one window of the receiver and 66,000 bytes.
        dialogue.stays_out(from, data(own.wrapping_add(windows[it] - 100), peer, 101), OUTSIDE);
        let oldest = windows[it] + 66_000;
        dialogue.stays_out(from, data(own.wrapping_sub(oldest + 1), peer, 100), OUTSIDE);
        dialogue.crosses(from, data(own.wrapping_sub(oldest), peer, 100));
        // III: acknowledges nothing that was not sent. IV: nothing that is older than 66,000 bytes or a window.
        let oldest = windows[me].max(66_000);
        dialogue.stays_out(from, ack(own, peer.wrapping_add(1)), OUTSIDE);
        dialogue.stays_out(from, ack(own, peer.wrapping_sub(oldest + 1)), OUTSIDE);
        dialogue.crosses(from, ack(own, peer.wrapping_sub(oldest)));
    }
    // Last, because then the rest of the stream is behind it.
    for from in End::BOTH {
        let (own, peer) = (next[from as usize], next[from.other() as usize]);
        dialogue.crosses(from, data(own.wrapping_add(windows[from.other() as usize] - 100), peer, 100));
    }
    dialogue.is("established");
}

#[test]
fn w9_data_and_acknowledgements_are_bounded_on_both_sides() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        bounds(&stage, family, 4000, INITIAL, [None; 2]);
    }
}

#[test]
fn w9_the_bounds_hold_with_window_scaling_of_both_ends_and_none_of_only_one() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        bounds(&stage, family, 4000, INITIAL, [Some(3), Some(7)]);
        bounds(&stage, family, 4001, INITIAL, [Some(14), Some(0)]);
        bounds(&stage, family, 4002, INITIAL, [Some(7), None]);
        bounds(&stage, family, 4003, INITIAL, [None, Some(7)]);
    }
}

#[test]
fn w9_the_bounds_hold_where_numbers_wrap_and_where_their_sign_changes() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        bounds(&stage, family, 4000, [u32::MAX, u32::MAX - 5000], [None; 2]);
        bounds(&stage, family, 4001, [u32::MAX - 50_000, 0], [Some(3), Some(7)]);
        bounds(&stage, family, 4002, [(1 << 31) - 1, (1 << 31) - 5000], [None; 2]);
    }
}

#[test]
fn w10_an_old_retransmission_of_acknowledged_data_passes() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        let dialogue = stage.open(family, 4000, INITIAL);
        for n in 0..5 {
            dialogue.crosses(Client, data(1001 + n * 1000, 5001, 1000));
            dialogue.crosses(Server, ack(5001, 2001 + n * 1000));
        }
        // The acknowledgements were lost behind us: all of it comes again, and is acknowledged again.
        for n in 0..5 {
            dialogue.crosses(Client, data(1001 + n * 1000, 5001, 1000));
            dialogue.crosses(Server, ack(5001, 6001));
        }
        dialogue.is("established");
    }
}

/// The kernel's `conntrack_ack_loss_stall`: the sender starts over a little more than a window back.
#[test]
fn w10_a_retransmission_of_more_than_a_window_ago_passes() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        let dialogue = stage.dialogue(family, 4000, 80);
        dialogue.crosses(Client, syn(0));
        dialogue.crosses(Server, syn_ack(0, 1).window(u16::MAX));
        for n in 0..48 {
            dialogue.crosses(Client, data(1 + n * 1400, 1, 1400));
            dialogue.crosses(Server, ack(1, 1401 + n * 1400).window(u16::MAX));
        }
        dialogue.crosses(Client, data(1, 1, 1400));
        dialogue.crosses(Server, ack(1, 67_201).window(u16::MAX));
    }
}

#[test]
fn w11_a_syn_in_an_established_connection_is_challenged_and_after_the_reset_the_ports_are_free() {
    let Some(stage) = both_ways() else { return };
    for family in Family::BOTH {
        for (port, restarted) in [(4000, Client), (4001, Server)] {
            let dialogue = stage.open(family, port, INITIAL);
            let (own, peer) = if restarted == Client { (1001, 5001) } else { (5001, 1001) };
            dialogue.crosses(restarted, syn(900_000));
            dialogue.is("established");
            // RFC 5961, section 4: the other end answers with what it expects, and the restarted one resets that.
            dialogue.crosses(restarted.other(), ack(peer, own));
            dialogue.crosses(restarted, rst(own));
            dialogue.crosses(restarted, syn(900_000));
            dialogue.crosses(restarted.other(), syn_ack(70_000, 900_001));
            dialogue.crosses(restarted, ack(900_001, 70_001));
            dialogue.is("established");
        }
    }
}

/// Both have restarted, or the connection has run out at either end only: there is nobody left to challenge the SYN.
#[test]
fn w11_where_both_ends_have_forgotten_the_connection_the_syn_that_comes_again_opens_a_new_one() {
    let Some(stage) = both_ways() else { return };
    for family in Family::BOTH {
        for (port, restarted) in [(4000, Client), (4001, Server)] {
            let dialogue = stage.open(family, port, INITIAL);
            // Without a SYN before it, it is a forgery, and changes nothing.
            dialogue.stays_out(restarted.other(), syn_ack(70_000_000, 900_001), OUTSIDE);
            dialogue.crosses(restarted, syn(900_000));
            dialogue.drops(restarted.other(), syn_ack(70_000_000, 900_001), OUTSIDE);
            dialogue.is("closed");
            dialogue.crosses(restarted, syn(900_000));
            dialogue.crosses(restarted.other(), syn_ack(70_000_000, 900_001));
            dialogue.crosses(restarted, ack(900_001, 70_000_001));
            dialogue.is("established");
            // The same where the port is closed by now.
            dialogue.crosses(restarted, syn(1_900_000));
            let refusal = segment(flags::RST | flags::ACK, 0, 1_900_001);
            dialogue.drops(restarted.other(), refusal.clone(), OUTSIDE);
            dialogue.crosses(restarted, syn(1_900_000));
            dialogue.crosses(restarted.other(), refusal);
            dialogue.is("closed");
        }
    }
}

#[test]
fn w11_a_syn_does_not_make_a_connection_forgotten_that_shows_that_it_lives() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        let dialogue = stage.open(family, 4000, INITIAL);
        dialogue.crosses(Client, syn(900_000));
        dialogue.crosses(Server, ack(5001, 1001));
        dialogue.stays_out(Server, syn_ack(70_000_000, 900_001), OUTSIDE);
        dialogue.crosses(Client, data(1001, 5001, 10));
        dialogue.is("established");
    }
}

#[test]
fn w11_a_syn_of_the_responder_drops_where_it_may_not_originate() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        let dialogue = stage.open(family, 4000, INITIAL);
        dialogue.stays_out(Server, syn(900_000), "no_rule");
        dialogue.crosses(Server, data(5001, 1001, 10));
    }
}

#[test]
fn w12_a_challenge_ack_that_answers_a_syn_crosses_without_data_and_so_does_its_reset() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        let dialogue = stage.dialogue(family, 4000, 80);
        dialogue.crosses(Client, syn(1000));
        // The server remembers an older connection of these ports.
        dialogue.crosses(Server, ack(777_000, 333_000));
        dialogue.stays_out(Server, data(777_000, 333_000, 1), INVALID);
        dialogue.crosses(Client, rst(333_000));
        dialogue.is("syn_sent");
        dialogue.crosses(Client, syn(1000));
        dialogue.crosses(Server, syn_ack(5000, 1001));
        dialogue.crosses(Client, ack(1001, 5001));
        dialogue.is("established");
    }
}

#[test]
fn w13_simultaneous_open_works_where_both_directions_are_allowed() {
    let Some(stage) = both_ways() else { return };
    for family in Family::BOTH {
        let dialogue = stage.dialogue(family, 4000, 80);
        dialogue.crosses(Client, syn(1000));
        dialogue.crosses(Server, syn(5000));
        dialogue.crosses(Client, syn_ack(1000, 5001));
        dialogue.crosses(Server, syn_ack(5000, 1001));
        dialogue.is("established");
        dialogue.crosses(Client, data(1001, 5001, 10));
        dialogue.crosses(Server, data(5001, 1011, 10));
        // Either SYN-ACK may be lost behind us.
        dialogue.crosses(Client, syn_ack(1000, 5001));
        dialogue.crosses(Server, syn_ack(5000, 1001));
    }
}

#[test]
fn w13_simultaneous_open_works_when_the_second_syn_ack_or_the_first_syn_is_lost() {
    let Some(stage) = both_ways() else { return };
    for family in Family::BOTH {
        for (port, first) in [(4000, Client), (4001, Server)] {
            let (own, peer) = if first == Client { (1000, 5000) } else { (5000, 1000) };
            let dialogue = stage.dialogue(family, port, 80);
            dialogue.crosses(Client, syn(1000));
            dialogue.crosses(Server, syn(5000));
            dialogue.crosses(first, syn_ack(own, peer + 1));
            dialogue.crosses(first.other(), syn(peer));
            dialogue.stays_out(first.other(), ack(peer + 1, own), OUTSIDE);
            dialogue.crosses(first.other(), ack(peer + 1, own + 1));
            dialogue.is("established");
        }
    }
}

#[test]
fn w13_simultaneous_open_drops_where_only_one_direction_is_allowed() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        let dialogue = stage.dialogue(family, 4000, 80);
        dialogue.crosses(Client, syn(1000));
        dialogue.stays_out(Server, syn(5000), "no_rule");
        dialogue.is("syn_sent");
    }
}

#[test]
fn w14_a_split_handshake_does_not_reach_a_denied_direction_in_four_ways_or_five() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        for (port, is_five_way) in [(4000, false), (4001, true)] {
            let dialogue = stage.dialogue(family, port, 80);
            dialogue.crosses(Client, syn(1000));
            if is_five_way {
                dialogue.crosses(Server, ack(4999, 1001));
            }
            dialogue.stays_out(Server, syn(5000), "no_rule");
            // Whatever the client might have answered, it makes nobody an initiator.
            dialogue.stays_out(Client, syn_ack(1000, 5001), INVALID);
            dialogue.stays_out(Server, data(5001, 1001, 10), INVALID);
            dialogue.stays_out(Client, data(1001, 5001, 10), INVALID);
            dialogue.is("syn_sent");
        }
    }
}

/// It cannot be told from a simultaneous open then, and reaches nothing that the policy denies.
#[test]
fn w14_where_both_directions_are_allowed_a_split_handshake_leaves_the_client_the_originator() {
    let Some(stage) = both_ways() else { return };
    for family in Family::BOTH {
        let dialogue = stage.dialogue(family, 4000, 80);
        dialogue.crosses(Client, syn(1000));
        dialogue.crosses(Server, syn(5000));
        dialogue.stays_out(Server, data(5001, 1001, 10), INVALID);
        dialogue.crosses(Client, syn_ack(1000, 5001));
        dialogue.crosses(Server, ack(5001, 1001));
        dialogue.is("established");
        let rows = dialogue.rows();
        assert_eq!((rows[0]["source_port"].as_u64(), rows[0]["rule"].as_str()), (Some(4000), Some("web")));
    }
}

/// Closes an open connection from both ends: the client first.
fn close(dialogue: &bulkhead_tests::dialogue::Dialogue<'_>) {
    dialogue.crosses(Client, fin(1001, 5001));
    dialogue.crosses(Server, fin(5001, 1002));
    dialogue.crosses(Client, ack(1002, 5002));
    dialogue.is("time_wait");
}

#[test]
fn w15_time_wait_yields_to_a_syn_with_a_higher_number_and_not_to_an_old_one() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        let dialogue = stage.open(family, 4000, INITIAL);
        close(&dialogue);
        dialogue.stays_out(Client, syn(1000), OUTSIDE);
        dialogue.stays_out(Client, syn(1001), OUTSIDE);
        // The last FIN again, and its acknowledgement.
        dialogue.crosses(Server, fin(5001, 1002));
        dialogue.crosses(Client, ack(1002, 5002));
        let last_window = u32::from(WINDOW) + 66_000;
        dialogue.stays_out(Client, syn(1002_u32.wrapping_sub(last_window)), OUTSIDE);
        dialogue.handshake([50_000, 60_000], [None; 2]);
    }
}

/// A fast connection outruns the clock of initial sequence numbers (RFC 6528): its successor begins far behind its end,
/// and the host in TIME-WAIT takes it for its timestamps (RFC 6191).
#[test]
fn w15_time_wait_yields_to_a_syn_that_is_too_far_behind_to_be_of_the_old_connection() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        let dialogue = stage.open(family, 4000, INITIAL);
        close(&dialogue);
        dialogue.handshake([1001_u32.wrapping_sub(u32::from(WINDOW) + 66_000), 6000], [None; 2]);
    }
}

#[test]
fn w15_rfc_1337_assassination_does_not_free_a_connection_in_time_wait() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        let dialogue = stage.open(family, 4000, INITIAL);
        close(&dialogue);
        // Old data is answered with an ACK, and a host that knows nothing of it resets that.
        dialogue.crosses(Server, data(4990, 1001, 11));
        dialogue.crosses(Client, ack(1002, 5002));
        dialogue.crosses(Server, rst(5002));
        dialogue.is("time_wait");
        dialogue.crosses(Server, fin(5001, 1002));
    }
}

#[test]
fn w16_fast_open_passes_where_allowed_and_its_data_is_not_delivered_where_denied() {
    let rules = allow("web", "office", "servers", "tcp/80") + &deny("no-ssh", "office", "servers", "tcp/22");
    let Some(stage) = Stage::start(&Config::new(rules)) else { return };
    let cookie = [TcpOptionElement::MaximumSegmentSize(1460), TcpOptionElement::WindowScale(7)];
    for family in Family::BOTH {
        let denied = stage.dialogue(family, 4000, 22);
        denied.stays_out(Client, syn(1000).options(&cookie).with(100), "rule_denied");
        assert_eq!(denied.state(), None);
        // The server may take all of the data, some, or none, and may answer before the third step.
        for (port, taken) in [(4000, 100), (4001, 40), (4002, 0)] {
            let dialogue = stage.dialogue(family, port, 80);
            dialogue.crosses(Client, syn(1000).options(&cookie).with(100));
            dialogue.crosses(Server, syn_ack(5000, 1001 + taken).options(&cookie));
            dialogue.crosses(Server, data(5001, 1001 + taken, 500));
            dialogue.crosses(Client, ack(1101, 5001));
            dialogue.is("established");
            if taken < 100 {
                dialogue.crosses(Client, data(1001 + taken, 5501, 100 - taken as usize));
            }
        }
        // It may even close before the third step.
        let dialogue = stage.dialogue(family, 4003, 80);
        dialogue.crosses(Client, syn(1000).options(&cookie).with(100));
        dialogue.crosses(Server, syn_ack(5000, 1101).options(&cookie));
        dialogue.crosses(Server, fin(5001, 1101).with(500));
        dialogue.crosses(Client, ack(1101, 5502));
        dialogue.is("fin_reply");
    }
}

#[test]
fn w17_a_rule_has_time_outs_of_its_own_and_a_reload_changes_them_for_live_connections() {
    let rule = |timeouts: &str| {
        let quick = allow("quick", "office", "servers", "tcp/80") + &format!("timeouts = {{ {timeouts} }}\n");
        Config::new(quick + &allow("slow", "office", "servers", "tcp/81"))
    };
    let Some(stage) = Stage::start(&rule("tcp_established = \"1s\"")) else { return };
    let mut open = Vec::new();
    for family in Family::BOTH {
        stage.open(family, 4000, INITIAL);
        let slow = stage.dialogue(family, 4000, 81);
        slow.handshake(INITIAL, [None; 2]);
        open.push(slow);
    }
    let count = |rule: &str| {
        let listed = stage.scene.json(&["connections", "list", "--rule", rule]);
        number(&listed, "matched")
    };
    wait_until("those of the quick rule have expired", || count("quick") == 0);
    assert_eq!(count("slow"), 2);
    // The rule of the slow ones becomes quick as well.
    stage.scene.reload(&Config::new(
        allow("slow", "office", "servers", "tcp/81") + "timeouts = { tcp_established = \"1s\" }\n",
    ));
    for dialogue in &open {
        dialogue.crosses(Client, ack(1001, 5001));
    }
    wait_until("those too have expired", || count("slow") == 0);
}

#[test]
fn w19_the_first_packets_of_both_directions_on_two_workers_at_once_make_one_connection() {
    const PORTS: std::ops::Range<u16> = 5000..5300;
    let Some((scene, cpus)) = two_workers("tcp/5000-5299") else { return };
    for family in Family::BOTH {
        both_at_once(&scene, cpus, family, PORTS, |path, port| {
            path.tcp((port, port), bulkhead_tests::frames::segment(flags::SYN, 1000, 0), b"")
        });
        for zone in ["office", "servers"] {
            for _ in PORTS {
                scene.peer(zone).expect("one of the SYNs", |packet| packet.tcp_flags() == flags::SYN);
            }
        }
    }
    let listed = scene.json(&["connections", "list", "--limit", "10000"]);
    assert_eq!(number(&listed, "matched"), 2 * PORTS.len() as u64);
    for connection in listed["connections"].as_array().unwrap() {
        assert_eq!(connection["packets"].to_string(), "[1,1]", "{connection:#}");
        assert_eq!(connection["state"], "simultaneous_syn");
    }
}

#[test]
fn w20_a_reset_without_a_connection_creates_none() {
    let Some(stage) = both_ways() else { return };
    for family in Family::BOTH {
        let dialogue = stage.dialogue(family, 4000, 80);
        for from in End::BOTH {
            dialogue.stays_out(from, rst(1000), NO_CONNECTION);
            dialogue.stays_out(from, segment(flags::RST | flags::ACK, 0, 1001), NO_CONNECTION);
        }
        assert_eq!(dialogue.state(), None);
    }
}

#[test]
fn w20_a_close_or_a_reset_from_either_side_frees_the_connection_within_its_timer() {
    let timeouts = "tcp_time_wait = \"1s\"\ntcp_closed = \"1s\"\n";
    let rules = allow("web", "office", "servers", "tcp/80");
    let Some(stage) = Stage::start(&Config { timeouts, ..Config::new(rules) }) else { return };
    let mut ended = Vec::new();
    for family in Family::BOTH {
        for (port, first) in [(4000, Client), (4001, Server)] {
            let (own, peer) = if first == Client { (1001, 5001) } else { (5001, 1001) };
            let dialogue = stage.open(family, port, INITIAL);
            dialogue.crosses(first, fin(own, peer));
            dialogue.crosses(first.other(), fin(peer, own + 1));
            dialogue.crosses(first, ack(own + 1, peer + 1));
            ended.push(dialogue);
            let dialogue = stage.open(family, port + 10, INITIAL);
            dialogue.crosses(first, rst(own));
            ended.push(dialogue);
        }
    }
    wait_until("all of them are gone", || ended.iter().all(|dialogue| dialogue.state().is_none()));
}

#[test]
fn w21_keep_alives_and_zero_window_probes_pass() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        let dialogue = stage.open(family, 4000, INITIAL);
        for (from, own, peer) in [(Client, 1001, 5001), (Server, 5001, 1001)] {
            // RFC 9293, section 3.8.4: one behind, with or without a byte of garbage.
            for keep_alive in [ack(own - 1, peer), data(own - 1, peer, 1)] {
                dialogue.crosses(from, keep_alive);
                dialogue.crosses(from.other(), ack(peer, own));
            }
        }
        // The server's window is full and closed; one byte beyond it asks whether it still is (section 3.8.6.1).
        dialogue.crosses(Client, data(1001, 5001, 1000));
        for round in 0..u32::from(WINDOW) / 1000 {
            dialogue.crosses(Client, data(1001 + round * 1000, 5001, 1000));
        }
        let full = 1001 + u32::from(WINDOW);
        dialogue.crosses(Server, ack(5001, full).window(0));
        dialogue.stays_out(Client, data(full, 5001, 2), OUTSIDE);
        for probe in [data(full, 5001, 1), ack(full - 1, 5001), data(full, 5001, 1)] {
            dialogue.crosses(Client, probe);
            dialogue.crosses(Server, ack(5001, full).window(0));
        }
        // It opens again.
        dialogue.crosses(Server, ack(5001, full + 1));
        dialogue.crosses(Client, data(full + 1, 5001, 1000));
    }
}

/// Nor of PSH and URG. `Dialogue::crosses` sees that all of them arrive as they were sent.
#[test]
fn w_no_verdict_depends_on_ecn_accecn_reserved_or_urgent_bits() {
    let Some(stage) = one_way() else { return };
    for family in Family::BOTH {
        for (port, marks) in (4000..).zip(0..16) {
            let mark = |mut segment: bulkhead_tests::dialogue::Segment| {
                segment.header.ece = marks & 1 != 0;
                segment.header.cwr = marks & 2 != 0;
                segment.header.ns = marks & 4 != 0;
                segment.header.urg = marks & 8 != 0;
                segment.header.urgent_pointer = 5 * u16::from(segment.header.urg);
                segment
            };
            let dialogue = stage.dialogue(family, port, 80);
            dialogue.stays_out(Client, mark(data(1001, 5001, 10)), NO_CONNECTION);
            dialogue.crosses(Client, mark(syn(1000)));
            dialogue.crosses(Server, mark(syn_ack(5000, 1001)));
            dialogue.crosses(Client, mark(ack(1001, 5001)));
            dialogue.crosses(Server, mark(data(5001, 1001, 10)));
            dialogue.stays_out(Server, mark(data(900_000, 1001, 10)), OUTSIDE);
            dialogue.crosses(Client, mark(fin(1001, 5011)));
            dialogue.crosses(Server, mark(rst(5011)));
            dialogue.is("closed");
        }
    }
}
