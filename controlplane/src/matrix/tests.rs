use super::*;
use crate::model;

const TEXT: &str = r#"version = 1
[ports.a]
interface = "eth1"
[segments.office]
port = "a"
networks = ["10.1.0.0/24"]
[segments.db]
port = "a"
networks = ["10.2.0.0/24"]
[segments.lab]
port = "a"
networks = ["10.3.0.0/24", "fd00:3::/64"]
[[rule]]
name = "sql"
from = ["office", "lab"]
to = "db"
services = ["tcp/5432", "tcp/5433"]
[[rule]]
name = "ssh"
from = "office"
to = ["db", "lab"]
services = "tcp/22"
users = { groups = ["</script><script>alert(1)</script>"] }
[[rule]]
name = "no"
from = "any"
to = "db"
services = "tcp/5433"
action = "deny"
"#;

fn matrix() -> Matrix {
    Matrix::of(&model::parse("t.toml", TEXT).unwrap()).unwrap()
}

#[test]
fn a_cell_has_what_is_allowed_and_to_whom() {
    let matrix = matrix();
    assert_eq!(matrix.segments, ["db", "lab", "office"]);
    let pairs: Vec<(u32, u32)> = matrix.cells.iter().map(|cell| (cell.from, cell.to)).collect();
    assert_eq!(pairs, [(1, 0), (2, 0), (2, 1)], "what is only denied is no cell");
    let treated = &matrix.treatments[matrix.cell(2, 0).unwrap() as usize];
    let [ssh, sql] = treated.as_slice() else { panic!("{treated:#?}") };
    assert_eq!((&ssh.services[..], ssh.conditional), (&["tcp/22".to_owned()][..], true));
    assert!(
        ssh.packet.starts_with("10.1.0.1 (") && ssh.packet.ends_with(" → 10.2.0.1 tcp/22"),
        "{}",
        ssh.packet
    );
    assert_eq!((&sql.services[..], sql.conditional), (&["tcp/5432".to_owned()][..], false));
    assert_eq!(
        (&sql.rules[..], &sql.places[..]),
        (&["allowed by `sql`".to_owned()][..], &["t.toml:14:8".to_owned()][..])
    );
    let narrowed = matrix.narrowed(&["office".to_owned()], &["lab".to_owned()]);
    assert_eq!(narrowed.cells.len(), 1);
}

#[test]
fn the_table_of_ten_segments_fits_into_80_columns() {
    let mut text = String::from("version = 1\n[ports.a]\ninterface = \"eth1\"\n");
    for number in 0..10 {
        text += &format!(
            "[segments.a-rather-long-name-{number}]\nport = \"a\"\nnetworks = [\"10.{number}.0.0/16\"]\n"
        );
        text += &format!(
            "[[rule]]\nname = \"{number}\"\nfrom = \"any\"\nto = \"a-rather-long-name-{number}\"\nservices = \"tcp/{}\"\n",
            80 + number
        );
    }
    let told = text::tell(&Matrix::of(&model::parse("t.toml", &text).unwrap()).unwrap());
    assert!(told.lines().all(|line| line.chars().count() <= 80), "{told}");
    assert_eq!(
        told.lines().nth(1).unwrap().split_whitespace().collect::<Vec<_>>()[1..],
        ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"]
    );
}

#[test]
fn no_name_becomes_markup_or_leaves_its_quotes() {
    let page = html::page(&matrix()).unwrap();
    assert!(
        page.contains("alert(1)") && !page.contains("<script>alert"),
        "the group's name is there, harmless"
    );
    assert_eq!(page.matches("</script>").count(), 2);
    for foreign in ["http:", "https:", "src=", "url(", "@import"] {
        assert!(!page.contains(foreign), "{foreign} would be loaded");
    }
    let start = page.find("type=\"application/json\">").unwrap() + "type=\"application/json\">".len();
    let data = &page[start..start + page[start..].find("</script>").unwrap()];
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(serde_json::from_value::<Matrix>(data["matrix"].clone()).unwrap(), matrix());
    let mut named = matrix();
    named.segments[0] = "a\"b\\".to_owned();
    assert!(
        dot::graph(&named).contains("\"lab\" -> \"a\\\"b\\\\\" [label=\"tcp/5432\"];"),
        "{}",
        dot::graph(&named)
    );
}
