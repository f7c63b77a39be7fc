//! Identity providers and transmitters of security events.

use std::path::PathBuf;

use bulkhead_dataplane::steering::LocalService;

use super::{GOOD, append};
use crate::identity::signals::KeysAt;
use crate::model::{self, SignIn};

const PORTAL: &str = "[portal]\nports = \"lan\"\nname = \"access.example.org\"\n";

fn sign_in(text: &str) -> SignIn {
    model::parse("t.toml", &format!("{GOOD}{PORTAL}{text}")).unwrap().sign_in
}

/// What is said of these lines, after a portal. The first of them is line 22.
fn refused(text: &str, expected: &[&str]) {
    append(&format!("{PORTAL}{text}"), expected);
}

#[test]
fn a_provider_has_what_it_needs_and_defaults_for_the_rest() {
    let written = sign_in(
        "[identity.providers.corp]\nissuer = \"https://id.example.org/realms/corp\"\nclient_id = \"bulkhead\"\n\
         [identity.providers.a]\nlabel = \"Everybody else\"\nissuer = \"https://a.example.org\"\nclient_id = \"b\"\n\
         client_secret_file = \"/etc/bulkhead/a.secret\"\nscopes = [\"groups\", \"openid\"]\nuser = \"upn\"\n\
         groups = \"realm_access.roles\"\nca_file = \"/etc/bulkhead/ca.pem\"\nmax_age = \"8h\"\ndevice_code = true\n\
         step_up_acr = \"phr\"\nmfa_acr = [\"silver\"]\nphishing_resistant_acr = \"gold\"\nphishing_resistant_amr = \"fido\"\n",
    );
    let [a, corp] = &written.providers[..] else { panic!("{written:?}") };
    assert_eq!((corp.label.as_str(), corp.user.as_str(), &corp.groups), ("corp", "email", &None));
    assert_eq!(corp.scopes, ["openid", "email", "profile"]);
    assert!(!corp.device_code && corp.client_secret_file.is_none() && corp.max_age_s.is_none());
    assert_eq!((a.label.as_str(), a.user.as_str(), a.max_age_s), ("Everybody else", "upn", Some(28_800)));
    assert_eq!(a.scopes, ["openid", "groups"]);
    assert_eq!(a.client_secret_file, Some(PathBuf::from("/etc/bulkhead/a.secret")));
    assert_eq!(a.trusted.phishing_resistant_acr, ["gold"]);
    assert!(a.device_code && a.step_up_acr == ["phr"]);
}

#[test]
fn a_provider_that_cannot_work_is_refused() {
    let good = "issuer = \"https://a.example.org\"\nclient_id = \"b\"\n";
    refused(
        "[identity.providers.a]\nlabel = \"A\"\n",
        &[
            "22:1 an identity provider has no `issuer` | for example `issuer = \"https://id.example.org\"`",
            "22:1 an identity provider has no `client_id` | for example `client_id = \"bulkhead\"`",
        ],
    );
    refused(
        "[identity.providers.a]\nissuer = \"http://a.example.org\"\nclient_id = \"b\"\n",
        &["23:10 `http://a.example.org` is no https address | for example \"https://id.example.org\""],
    );
    refused(
        "[identity.providers.a]\nissuer = \"https://a.example.org/?x\"\nclient_id = \"b\"\n",
        &["23:10 an issuer has no query and no fragment | it is what `iss` of the provider's tokens says"],
    );
    refused(
        &format!("[identity.providers.a]\n{good}client_secret = \"s3cret\"\n"),
        &["25:1 unknown key `client_secret` in an identity provider | did you mean `client_secret_file`?"],
    );
    refused(
        &format!("[identity.providers.a]\n{good}client_secret_file = \"a.secret\"\n"),
        &["25:22 `a.secret` is no absolute path | begin it with `/`"],
    );
    refused(
        &format!("[identity.providers.a]\n{good}scopes = \"email groups\"\n"),
        &["25:10 `email groups` is not one scope | write a list: [\"email\", \"groups\"]"],
    );
    refused(
        &format!("[identity.providers.\"a/b\"]\n{good}"),
        &[
            "22:21 `a/b` is not a usable name | use letters, digits, `.`, `_` and `-`, at most 64, a letter or digit first: `a-b`",
        ],
    );
    append(
        &format!("[identity.providers.a]\n{good}"),
        &[
            "19:21 provider `a` needs a portal | browsers come back to it: add [portal] with `ports` and `name`",
        ],
    );
}

#[test]
fn a_transmitter_has_keys_and_a_way_to_come() {
    let written = sign_in(
        "[postures.compliant]\ndisk_encrypted = true\n[identity.transmitters.b]\nissuer = \"https://b.example.org\"\n\
         audience = \"us\"\nkeys = \"https://b.example.org/keys\"\npush_token_file = \"/etc/bulkhead/b.push\"\n\
         posture = \"compliant\"\n[identity.transmitters.a]\nissuer = \"https://a.example.org\"\naudience = \"us\"\n\
         keys_file = \"/etc/bulkhead/a.json\"\npoll = \"https://a.example.org/poll\"\npoll_token_file = \"/a.poll\"\n\
         ca_file = \"/ca.pem\"\n",
    );
    let [a, b] = &written.transmitters[..] else { panic!("{written:?}") };
    assert_eq!(a.keys, KeysAt::File(PathBuf::from("/etc/bulkhead/a.json")));
    assert_eq!(a.poll.as_deref(), Some("https://a.example.org/poll"));
    assert_eq!(b.keys, KeysAt::Url("https://b.example.org/keys".to_owned()));
    assert_eq!((b.posture.as_deref(), b.audience.as_str()), (Some("compliant"), "us"));
    let good = "issuer = \"https://a.example.org\"\naudience = \"us\"\n";
    refused(
        &format!("[identity.transmitters.a]\n{good}"),
        &[
            "22:24 transmitter `a` has no keys | say where they are, with `keys = \"https://…\"` or `keys_file = \"/…\"`",
            "22:24 nothing can come from transmitter `a` | give `push_token_file`, or `poll` with `poll_token_file`",
        ],
    );
    refused(
        &format!(
            "[identity.transmitters.a]\n{good}keys = \"ftp://a\"\nkeys_file = \"/a\"\npoll = \"a\"\nposture = \"complient\"\n\
             [postures.compliant]\ndisk_encrypted = true\n"
        ),
        &[
            "25:8 `ftp://a` is no https address | for example \"https://id.example.org\"",
            "26:13 `keys` and `keys_file` are both given | leave one out",
            "27:8 `a` is no https address | for example \"https://id.example.org\"",
            "28:11 unknown posture `complient` | did you mean `compliant`?",
        ],
    );
    append(
        &format!("[identity.transmitters.a]\n{good}keys_file = \"/a\"\npush_token_file = \"/b\"\n"),
        &[
            "23:19 transmitter `a` needs a portal | it is where events are pushed to: add [portal], or use `poll`",
        ],
    );
}

#[test]
fn who_is_believed_is_part_of_what_a_policy_means() {
    let digest = |text: &str| model::parse("t.toml", &format!("{GOOD}{PORTAL}{text}")).unwrap().digest;
    let provider = "[identity.providers.a]\nissuer = \"https://a.example.org\"\nclient_id = \"b\"\n";
    let with = |more: &str| digest(&format!("{provider}{more}"));
    assert_ne!(digest(""), with(""));
    for more in ["groups = \"g\"", "user = \"upn\"", "device_code = true", "phishing_resistant_acr = \"x\""] {
        assert_ne!(with(""), with(more), "{more}");
    }
    assert_eq!(with(""), with("scopes = [\"email\", \"profile\"]"), "the default");
}

#[test]
fn clients_of_radius_have_an_address_and_a_secret_and_open_their_port() {
    let radius = "[identity.radius]\nports = \"wan\"\n[identity.radius.clients.switch]\naddress = \"10.2.0.5\"\n\
                  secret_file = \"/etc/bulkhead/switch.secret\"\n";
    let model =
        model::parse("t.toml", &format!("{GOOD}{radius}groups = \"staff\"\nlasts = \"9h\"\n")).unwrap();
    let settings = model.sign_in.radius.as_ref().unwrap();
    let client = &settings.clients[0];
    assert_eq!(
        (settings.port, client.lasts_s, client.groups.as_slice()),
        (1813, 9 * 3600, ["staff".to_owned()].as_slice())
    );
    let local = |name: &str| model.ports.iter().find(|port| port.name == name).unwrap().local.clone();
    assert_eq!(local("wan"), [LocalService::Udp(1813)]);
    assert_eq!(local("lan"), []);
    append(
        "[identity.radius]\nports = \"won\"\n[identity.radius.clients.a]\nsecret_file = \"/a\"\n\
         [identity.radius.clients.b]\naddress = \"here\"\nsecret_file = \"b\"\n",
        &[
            "20:9 unknown port `won` | did you mean `wan`?",
            "21:1 a client of RADIUS has no `address` | for example `address = \"10.20.0.5\"`",
            "24:11 `here` is no address | for example \"10.20.0.5\"",
            "25:15 `b` is no absolute path | begin it with `/`",
        ],
    );
    append(
        &format!("{radius}[identity.radius.clients.other]\naddress = \"10.2.0.5\"\nsecret_file = \"/b\"\n"),
        &["22:11 client `other` has this address too | whose secret it is could not be told"],
    );
    append(
        "[identity.radius]\n",
        &[
            "19:1 [identity.radius] has no `ports` | for example `ports = [\"core\"]`",
            "19:1 [identity.radius] has no `clients` | for example `[identity.radius.clients.switch]` with `address` and \
             `secret_file`",
        ],
    );
}

const DOOR: &str = "[portal]\nports = \"lan\"\nname = \"access.example.org\"\ncertificate_port = 8443\n";
const DOMAIN: &str = "[identity.trust_domains.\"example.org\"]\nbundle = \"/etc/bulkhead/example.org.pem\"\n";

/// What is said of these lines, after a portal with a door and a trust domain. The first of them is line 25.
fn refused_workload(text: &str, expected: &[&str]) {
    append(&format!("{DOOR}{DOMAIN}[[workload]]\nname = \"a\"\n{text}"), expected);
}

#[test]
fn a_workload_that_shows_a_spiffe_id_is_at_no_address() {
    let text =
        format!("{GOOD}{DOOR}{DOMAIN}[[workload]]\nname = \"a\"\nspiffe = \"spiffe://example.org/a/b\"\n");
    let model = model::parse("t.toml", &text).unwrap();
    let [workload] = &model.workloads[..] else { panic!("{:?}", model.workloads) };
    assert_eq!(workload.spiffe.as_ref().map(|id| id.as_str()), Some("spiffe://example.org/a/b"));
    assert_eq!((workload.addresses.len(), workload.mac), (0, None));
    let [domain] = &model.sign_in.trust_domains[..] else { panic!("{:?}", model.sign_in) };
    assert_eq!(domain.name, "example.org");
    assert_eq!(domain.bundle, PathBuf::from("/etc/bulkhead/example.org.pem"));
    assert!(model.ports.iter().any(|port| port.local.contains(&LocalService::Tcp(8443))));
}

#[test]
fn a_workload_or_a_trust_domain_that_cannot_work_is_refused() {
    refused_workload(
        "",
        &[
            "25:1 this workload has no `addresses` | say where it is, or what it shows: `spiffe = \"spiffe://example.org/billing\"`",
        ],
    );
    refused_workload(
        "spiffe = \"spiffe://Example.org/a\"\n",
        &[
            "27:10 `spiffe://Example.org/a` is no SPIFFE ID: its trust domain has 1 to 255 lower-case letters, digits, dots, hyphens and underscores, and nothing else | for example \"spiffe://example.org/billing\"",
        ],
    );
    refused_workload(
        "spiffe = \"spiffe://example.com/a\"\n",
        &[
            "27:10 nothing is said of the trust domain `example.com` | add [identity.trust_domains.\"example.com\"] with `bundle`",
        ],
    );
    refused_workload(
        "spiffe = \"spiffe://example.org/a\"\nmac = \"02:00:00:00:00:01\"\n",
        &[
            "28:7 `mac` of a workload that shows a SPIFFE ID | it is known wherever it shows it: leave one of the two out",
        ],
    );
    refused_workload(
        "spiffe = \"spiffe://example.org/a\"\n[[workload]]\nname = \"b\"\nspiffe = \"spiffe://example.org/a\"\n",
        &["30:10 `spiffe://example.org/a` is a workload already | 27:10 here"],
    );
    append(
        &format!("{PORTAL}{DOMAIN}"),
        &[
            "22:25 trust domain `example.org` needs a place to show SVIDs | add `certificate_port = 8443` to [portal]",
        ],
    );
    append(
        &format!("{DOOR}[identity.trust_domains.\"Example.org\"]\nbundle = \"/example.org.pem\"\n"),
        &["23:25 `Example.org` is no trust domain | for example \"example.org\", in lower case"],
    );
    append(
        &format!("{DOOR}[identity.trust_domains.\"example.org\"]\nbundle = \"example.org.pem\"\n"),
        &["24:10 `example.org.pem` is no absolute path | begin it with `/`"],
    );
}
