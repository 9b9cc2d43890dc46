use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::item::ContentHash;

fn item() -> (FileFacts, Metadata) {
    let file = FileFacts {
        key: "/home/me/2024/Alpen tour/IMG.0001.JPG".to_owned(),
        size: 2_500_000,
        // 2024-05-17 10:30:15.5 UTC
        modified_ns: 1_715_941_815_500_000_000,
        hash: ContentHash([0; 32]),
    };
    let metadata = json!({
        "label": "cat", "width": 640, "rating": 4.5, "public": true, "big": u64::MAX, "nothing": null, "size": 3,
        "exif": {"iso": 100, "lens.name": "50 mm", "and": 1},
        "captions": {"en": ["a dog on the street", "One Dog"], "de": ["ein Hund"]},
        "faces": [{"name": "Ada"}, {"name": "Bob", "age": 3}],
    });
    (file, serde_json::from_value(metadata).unwrap())
}

fn holds(filter: &str) -> bool {
    let (file, metadata) = item();
    let filter: Filter = filter.parse().unwrap_or_else(|e| panic!("{e}"));
    let again: Filter = filter.to_string().parse().unwrap();
    assert_eq!(again, filter, "{filter}");
    filter.matches(&file, &metadata)
}

#[test]
fn what_holds_of_an_item() {
    for filter in [
        "label = cat",
        "label='cat' AND NOT label = \"dog\"",
        "ext = jpg",
        "ext in (.PNG, .JPG)",
        "name = IMG.0001.JPG",
        "name ~ img.*.jpg and path ~ me/** and name like 'img%'",
        "path ~ \"2024/**\" and path ~ '2024/*/*' and path !~ '2024/*'",
        "path > '/home' and path < '/i'",
        "size > 2MB and size <= 2.5MB and size < 2.4MiB and size = 2500000 and size >= 2500kB",
        "date = 2024 and date = 2024-05 and date = 2024-05-17 and date = 2024-05-17T10:30 and date = '2024-05-17 10:30:15'",
        "date > 2023 and date >= 2024 and date <= 2024 and date < 2025 and date != 2024-05-18",
        "not (date > 2024 or date < 2024)",
        "width >= 640 and width < 640.5 and rating = 4.5 and rating > 4",
        "public = true and public != false",
        "big > 9223372036854775807 and big > 1.5",
        "exif.iso in (50, 100)",
        "exif.`lens.name` = \"50 mm\"",
        "exif.and = 1",
        "`size` = 3",
        "captions.en like '%DOG%' and captions like \"%hund\" and captions = \"ein Hund\"",
        "faces.name = Ada and faces.age > 2 and faces like 'b_b'",
        "exists label and exists(exif.iso) and not exists nothing and not exists other and exists path and exists ext",
        "other != 3 and other not in (1, 2) and other not like '%' and other !~ '*'",
        "label = dog or label = cat and width = 640",
        "(label = dog or label = cat) and width = 640",
    ] {
        assert!(holds(filter), "{filter}");
        assert!(!holds(&format!("not ({filter})")), "not ({filter})");
    }
}

#[test]
fn what_does_not_hold() {
    for filter in [
        "label = Cat",
        "width = \"640\"",
        "label > 3",
        "label = true",
        "public = 1",
        "nothing = 0 or nothing = ''",
        "other < 3 or other >= 3",
        "exif = 1.5",
        "label.x = cat",
        "path = 2024",
        "name ~ '*.jp'",
        "label = dog or label = cat and width = 1",
    ] {
        assert!(!holds(filter), "{filter}");
    }
}

#[test]
fn what_is_no_filter_is_told_with_its_column() {
    for (text, column, found, expected) in [
        ("", 1, "its end", "a column"),
        ("   ", 4, "its end", "a column"),
        ("size", 5, "its end", "a comparison"),
        ("size >", 7, "its end", "a size"),
        ("größe >> 2", 8, "'>'", "a value"),
        ("size > big", 8, "\"big\"", "a size"),
        ("size > 3XB", 8, "\"3XB\"", "a size"),
        ("size > 99999999999TB", 8, "\"99999999999TB\"", "a size"),
        ("date > tomorrow", 8, "\"tomorrow\"", "a date"),
        ("date = 2024-02-30", 8, "\"2024-02-30\"", "a date"),
        ("date like '2024%'", 11, "'\\''", "a text column"),
        ("label = cat label = dog", 13, "\"label\"", "and, or"),
        ("label = cat and", 16, "its end", "a column"),
        ("and = 3", 1, "\"and\"", "a column"),
        ("3 = 3", 1, "\"3\"", "a column"),
        ("a..b = 3", 3, "\".b\"", "a column"),
        ("(label = cat", 13, "its end", "and, or, or \")\""),
        ("label in cat", 10, "\"cat\"", "\"(\""),
        ("label in (cat dog)", 15, "\"dog\"", "\",\" or"),
        ("label in ()", 11, "')'", "a value"),
        ("label = 'cat", 13, "its end", "a closing quote"),
        ("`label = cat", 13, "its end", "a closing `"),
        ("label not cat", 11, "\"cat\"", "like or in"),
        ("public > true", 10, "\"true\"", "a number or a text"),
    ] {
        let error = text.parse::<Filter>().unwrap_err();
        let FilterError::Syntax {
            column: at,
            found: what,
            expected: wanted,
            ..
        } = &error
        else {
            panic!("{text}: {error}");
        };
        assert_eq!((*at, &what[..]), (column, found), "{text}: {error}");
        assert!(wanted.starts_with(expected), "{text}: {error}");
    }
}

#[test]
fn what_is_too_long_or_too_deep_is_refused() {
    let nested = |depth: usize| format!("{}label = cat{}", "(".repeat(depth), ")".repeat(depth));
    assert!(nested(64).parse::<Filter>().is_ok());
    assert!(matches!(
        nested(65).parse::<Filter>(),
        Err(FilterError::Syntax { column: 66, .. })
    ));
    assert!(format!("{}label = cat", "not ".repeat(65)).parse::<Filter>().is_err());
    let long = format!("label = '{}'", "x".repeat(5000));
    assert!(matches!(
        long.parse::<Filter>(),
        Err(FilterError::TooLong { found: 5010 })
    ));
    // Many parts side by side are no depth.
    assert!(vec!["a=b"; 400].join(" or ").parse::<Filter>().is_ok());
}

#[test]
fn a_filter_is_text_in_json() {
    let filter: Filter = "size>2MB and not exists label".parse().unwrap();
    let json = serde_json::to_string(&filter).unwrap();
    assert_eq!(json, "\"size > 2000000 and not exists label\"");
    assert_eq!(serde_json::from_str::<Filter>(&json).unwrap(), filter);
    assert!(serde_json::from_str::<Filter>("\"size\"").is_err());
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,6}", "\\PC{0,8}", r#"[\\"'`%_*?. ]{0,6}"#]
}

fn columns() -> impl Strategy<Value = Column> {
    prop_oneof![
        Just(Column::Path),
        Just(Column::Name),
        prop::collection::vec(
            prop_oneof![texts(), Just("and".to_owned()), Just("size".to_owned())],
            1..3
        )
        .prop_map(Column::Own),
    ]
}

fn conditions() -> impl Strategy<Value = Expr> {
    let ops = prop_oneof![
        Just(Op::Equal),
        Just(Op::Less),
        Just(Op::AtMost),
        Just(Op::More),
        Just(Op::AtLeast)
    ];
    let own = || texts().prop_map(|t| Column::Own(vec![format!("k{t}")]));
    let dates = prop_oneof![Just("2024"), Just("1999-12"), Just("2024-05-17T10:30")];
    prop_oneof![
        columns().prop_map(Expr::Exists),
        (columns(), ops.clone(), texts()).prop_map(|(c, op, t)| Expr::Compare(c, op, Value::Text(t))),
        (own(), ops.clone(), any::<i64>()).prop_map(|(c, op, n)| Expr::Compare(c, op, Value::Integer(n))),
        (own(), ops.clone(), prop::num::f64::NORMAL).prop_map(|(c, op, n)| Expr::Compare(c, op, Value::Float(n))),
        (own(), any::<bool>()).prop_map(|(c, b)| Expr::Compare(c, Op::Equal, Value::Bool(b))),
        (ops.clone(), any::<i64>()).prop_map(|(op, n)| Expr::Compare(Column::Size, op, Value::Integer(n))),
        (ops, dates).prop_map(|(op, d)| Expr::Compare(Column::Date, op, Value::Date(Span::parse(d).unwrap()))),
        (columns(), prop::collection::vec(texts(), 1..4))
            .prop_map(|(c, values)| Expr::In(c, values.into_iter().map(Value::Text).collect())),
        (columns(), texts(), any::<bool>()).prop_map(|(c, t, is_glob)| {
            Expr::Like(c, Pattern::new(if is_glob { Style::Glob } else { Style::Like }, &t))
        }),
    ]
}

fn expressions() -> impl Strategy<Value = Expr> {
    conditions().prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::All),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Expr::Any),
            inner.prop_map(|e| Expr::Not(Box::new(e))),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(expr in expressions()) {
        let filter = Filter { expr };
        let text = filter.to_string();
        prop_assume!(text.len() <= 4096);
        prop_assert_eq!(text.parse::<Filter>().unwrap(), filter, "{}", text);
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,60}") {
        let _ = text.parse::<Filter>();
    }

    #[test]
    fn no_text_of_the_language_panics_and_what_is_read_can_be_asked(
        parts in prop::collection::vec(prop_oneof![
            Just("and"), Just("or"), Just("not"), Just("("), Just(")"), Just("label"), Just("size"), Just("="), Just("!="),
            Just("~"), Just("like"), Just("in"), Just(","), Just("exists"), Just("2MB"), Just("\"x\""), Just("`"), Just("date"),
            Just("2024"), Just("."), Just("\\"), Just("'"), Just("ö"),
        ], 0..14)
    ) {
        let (file, metadata) = item();
        if let Ok(filter) = parts.join(" ").parse::<Filter>() {
            filter.matches(&file, &metadata);
            prop_assert_eq!(filter.to_string().parse::<Filter>().unwrap(), filter);
        }
    }
}
