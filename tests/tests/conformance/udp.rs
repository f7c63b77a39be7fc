//! Group U: UDP.

use bulkhead_tests::config::{Config, allow};
use bulkhead_tests::frames::Family;
use bulkhead_tests::scene::Scene;

#[test]
fn u1_reply_passes_and_the_unsolicited_drops() {
    let Some(scene) = Scene::start(&Config::new(allow("names", "office", "servers", "udp/53"))) else {
        return;
    };
    let before = scene.drops();
    for family in Family::BOTH {
        let there = scene.path("office", "servers", family);
        let back = scene.path("servers", "office", family);
        scene.stays_out("servers", "office", &back.udp(53, 4000, b"unsolicited"));
        scene.crosses("office", "servers", &there.udp(4000, 53, b"question"));
        scene.crosses("servers", "office", &back.udp(53, 4000, b"answer"));
        // Of the same hosts, but not of this connection.
        scene.stays_out("servers", "office", &back.udp(53, 4001, b"another port"));
        scene.stays_out("servers", "office", &back.udp(54, 4000, b"from another port"));
    }
    scene.expect_drops(&before, &[("no_rule", 6)]);
}
