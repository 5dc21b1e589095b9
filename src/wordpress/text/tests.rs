use super::*;
use proptest::prelude::*;

#[test]
fn a_token_with_white_space_round_it_is_the_token() {
    assert_eq!(sanitize_text_field(b" \t abc123\r\n"), "abc123");
    assert_eq!(sanitize_text_field(b"a\n\n b"), "a b");
    assert_eq!(sanitize_text_field(b"\xff"), "");
}

#[test]
fn tags_and_octets_go() {
    assert_eq!(sanitize_text_field(b"a<script>x</script>b<style a>y</STYLE>c"), "abc");
    assert_eq!(sanitize_text_field(b"a<b"), "a&lt;b");
    assert_eq!(sanitize_text_field(b"a<b&amp;&x;&#0;&#38;\""), "a&lt;b&amp;&amp;x;&#038;&quot;");
    assert_eq!(sanitize_text_field(b"a%%414b"), "a");
    assert_eq!(sanitize_text_field(b"a %20 b"), "a b");
    assert_eq!(sanitize_text_field("Mozilla/5.0 (Ünicode) 100%".as_bytes()), "Mozilla/5.0 (Ünicode) 100%");
}

#[test]
fn a_user_agent_as_the_plugin_stores_it() {
    let slashed = wp_slash("O'Neil \"x\" é/😀");
    assert_eq!(slashed, "O\\'Neil \\\"x\\\" é/😀");
    assert_eq!(json_ascii(&slashed), r#""O\\'Neil \\\"x\\\" \u00e9\/\ud83d\ude00""#);
}

#[test]
fn a_target_loses_what_no_url_has() {
    assert_eq!(esc_url_raw("/wp-json/x?a=b c<d>\"\\^{}"), "/wp-json/x?a=b%20cd");
    assert_eq!(esc_url_raw("/a%0%0dd?x[]=1"), "/a?x%5B%5D=1");
    assert_eq!(esc_url_raw("/a//b?x[]=1"), "/a//b?x[]=1");
    assert_eq!(esc_url_raw("a"), "");
    assert_eq!(esc_url_raw(""), "");
}

#[test]
fn a_column_holds_what_its_charset_has() {
    assert_eq!(cut_to_column("aé😀b", 3, ColumnCharset::Utf8mb4), "aé😀");
    assert_eq!(cut_to_column("aé😀b", 9, ColumnCharset::Utf8mb3), "aé\u{fffd}b");
    assert_eq!(cut_to_column("aé😀b", 9, ColumnCharset::Ascii), "a??b");
    assert_eq!(cut_to_column("abc", 0, ColumnCharset::Ascii), "");
}

#[test]
fn hostile_lengths_cost_linear_time() {
    let start = std::time::Instant::now();
    for unit in ["<script>", "<", "&amp;", "%4%41", "<style", "&#00000"] {
        let text = unit.repeat(400_000 / unit.len());
        let _ = sanitize_text_field(text.as_bytes());
        let nested = "%".repeat(100_000) + &"41".repeat(100_000);
        let _ = esc_url_raw(&format!("/{text}{nested}"));
        assert_eq!(sanitize_text_field(nested.as_bytes()), "");
    }
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
}

proptest! {
    #[test]
    fn any_bytes_give_clean_text(input in proptest::collection::vec(any::<u8>(), 0..200)) {
        let text = sanitize_text_field(&input);
        prop_assert!(!text.contains(['\r', '\n', '\t']) && !text.contains("  "));
    }

    #[test]
    fn a_plain_token_stays_itself(token in "[0-9A-Za-z]{1,64}") {
        prop_assert_eq!(sanitize_text_field(token.as_bytes()), token);
    }

    #[test]
    fn json_ascii_is_json(text in any::<String>()) {
        let json = json_ascii(&text);
        prop_assert!(json.is_ascii());
        prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn a_column_is_never_overrun(text in any::<String>(), max in 0_usize..40) {
        for charset in [ColumnCharset::Utf8mb4, ColumnCharset::Utf8mb3, ColumnCharset::Ascii] {
            prop_assert!(cut_to_column(&text, max, charset).chars().count() <= max);
        }
    }
}
