use super::*;
use proptest::prelude::*;

/// The names in the form `LINE HOOK`.
fn of_file(source: &str) -> Vec<String> {
    names(source.as_bytes(), Form::File).iter().map(|named| format!("{} {}", named.line, named.hook)).collect()
}

fn of_code(code: &str) -> Vec<String> {
    of_file(&format!("<?php\n{code}"))
}

#[track_caller]
fn is_hit(code: &str) {
    assert_eq!(of_code(code), ["2 jwt_auth_before_authenticate"], "{code}");
}

#[track_caller]
fn is_none(code: &str) {
    assert_eq!(of_code(code), [""; 0], "{code}");
}

#[test]
fn registered_callbacks_are_hits() {
    for code in [
        "add_filter( 'jwt_auth_before_authenticate', 'shop_block', 10, 2 );",
        "add_filter( \"jwt_auth_before_authenticate\", fn( $user ) => $user );",
        "add_action('jwt_auth_before_authenticate', [ $this, 'block' ]);",
        "\\add_filter( hook_name: 'jwt_auth_before_authenticate', callback: 'x' );",
        "if ( is_admin() ) { ADD_FILTER( 'jwt_auth_before_authenticate', 'x' ); }",
        "class A { function b() { $this->loader->add_filter( 'jwt_auth_before_authenticate', $this, 'c' ); } }",
        "Hooks::on( 'jwt_auth_before_authenticate', 'x' );",
    ] {
        is_hit(code);
    }
    let several = "add_filter(\n\t'jwt_auth_before_authenticate',\n\tfunction ( $user ) {\n\t\treturn $user;\n\t}\n);\n\
                   add_action( 'jwt_auth_token_refreshed', 'x' );";
    assert_eq!(of_code(several), ["3 jwt_auth_before_authenticate", "8 jwt_auth_token_refreshed"]);
}

#[test]
fn a_name_is_a_hit_wherever_it_stands_in_code() {
    for code in [
        "const BLOCK = 'jwt_auth_before_authenticate';",
        "define( 'BLOCK', 'jwt_auth_before_authenticate' );",
        "foreach ( array( 'jwt_auth_before_authenticate' => 'x' ) as $hook => $call ) { add_filter( $hook, $call ); }",
        "$hooks = [ 'a', [ 'jwt_auth_before_authenticate', 10 ] ];",
        "class A { #[Filter('jwt_auth_before_authenticate')] function b() {} }",
        "class A { function jwt_auth_before_authenticate() {} }",
        "call_user_func( 'add_filter', 'jwt_auth_before_authenticate', 'x' );",
        "$list = 'init,jwt_auth_before_authenticate,wp_loaded';",
        "$h = <<<H\njwt_auth_before_authenticate\nH;",
        "$h = current_filter() === 'jwt_auth_before_authenticate';",
        "eval( \"add_filter( 'jwt_auth_before_authenticate', 'x' );\" );",
        "$wp_filter['jwt_auth_before_authenticate'][10][] = $x;",
    ] {
        let found = of_code(code);
        assert!(found.len() == 1 && found[0].ends_with(" jwt_auth_before_authenticate"), "{code}: {found:?}");
    }
    let nowdoc = "$h = <<<'H'\na\njwt_auth_before_authenticate\nH;";
    assert_eq!(of_code(nowdoc), ["4 jwt_auth_before_authenticate"]);
}

#[test]
fn names_that_are_put_together_are_hits() {
    for (code, hook) in [
        ("add_filter( 'jwt_auth_' . 'before_authenticate', 'x' );", "jwt_auth_before_authenticate"),
        ("add_filter( ('jwt_auth' . '_before') . '_authenticate', 'x' );", "jwt_auth_before_authenticate"),
        ("add_filter( 'jwt_auth_' . $what, 'x' );", "jwt_auth_*"),
        ("add_filter( 'jwt_auth_' . WHAT . '_before_dispatch', 'x' );", "jwt_auth_*_before_dispatch"),
        ("add_filter( \"jwt_auth_{$what}\", 'x' );", "jwt_auth_*"),
        ("add_filter( \"jwt_auth_token_$what\", 'x' );", "jwt_auth_token_*"),
        ("add_filter( \"jwt_auth_{$this->what()}\", 'x' );", "jwt_auth_*"),
        ("add_filter( sprintf( 'jwt_auth_%s_authenticate', $when ), 'x' );", "jwt_auth_*_authenticate"),
        ("$p = 'jwt_auth'; add_action( $p . '_token_refreshed', 'x' );", "*_token_refreshed"),
        ("$p = 'jwt_auth'; add_action( \"{$p}_token_refreshed\", 'x' );", "*_token_refreshed"),
        ("const PREFIX = 'jwt_auth_';", "jwt_auth_*"),
        ("$prefix = \"jwt_auth_token_\";", "jwt_auth_token_*"),
    ] {
        assert_eq!(of_code(code), [format!("2 {hook}")], "{code}");
    }
    let long = format!("$x = {}'jwt_auth_token_refreshed';", "'a' . ".repeat(3000));
    assert_eq!(of_code(&long), ["2 jwt_auth_token_refreshed"]);
}

#[test]
fn who_fires_asks_or_removes_registers_nothing() {
    for code in [
        "$data = apply_filters( 'jwt_auth_token_before_dispatch', $data, $user );",
        "return \\apply_filters( \"jwt_auth_before_authenticate\", $user );",
        "do_action( 'jwt_auth_token_refreshed', $token );",
        "apply_filters_ref_array( 'jwt_auth_before_authenticate', array( &$user ) );",
        "do_action_ref_array( 'jwt_auth_token_refreshed', [] );",
        "if ( has_filter( 'jwt_auth_before_authenticate' ) || has_action( 'jwt_auth_token_refreshed' ) ) { x(); }",
        "echo did_action( 'jwt_auth_token_refreshed' );",
        "remove_filter( 'jwt_auth_before_authenticate', 'x' ); remove_all_filters( ( 'jwt_auth_before_authenticate' ) );",
        "Remove_Action( 'jwt_auth_token_refreshed', 'x' );",
        "apply_filters( /* 1.0 */ 'jwt_auth_before_authenticate', 1 );",
        "apply_filters( \"jwt_auth_{$group}_{$key}\", $value );",
        "apply_filters( 'jwt_auth_' . $name, $value );",
        "apply_filters( $free ? 'jwt_auth_before_authenticate' : 'jwt_auth_token_before_dispatch', $value );",
        "apply_filters( hook_name: 'jwt_auth_before_authenticate', value: 1 );",
    ] {
        is_none(code);
    }
}

#[test]
fn only_the_hook_of_such_a_call_is_harmless() {
    for code in [
        "apply_filters( 'shop_hook', 'jwt_auth_before_authenticate' );",
        "apply_filters( value: 'jwt_auth_before_authenticate', hook_name: 'x' );",
        "apply_filters( $hook = 'jwt_auth_before_authenticate', 1 );",
        "do_action( named( 'jwt_auth_before_authenticate' ) );",
        "do_action( fn() => add_filter( 'jwt_auth_before_authenticate', 'x' ) );",
        "do_action( 'init', add_filter( 'jwt_auth_before_authenticate', 'x' ) );",
        "\\Shop\\apply_filters( 'jwt_auth_before_authenticate', 1 );",
        "$this->do_action( 'jwt_auth_before_authenticate' );",
        "Shop::apply_filters( 'jwt_auth_before_authenticate' );",
        "$do( 'jwt_auth_before_authenticate' );",
        "apply_filters( ...array( 'jwt_auth_before_authenticate', 1 ) );",
    ] {
        is_hit(code);
    }
}

#[test]
fn comments_text_and_other_names_are_no_hits() {
    for code in [
        "// add_filter( 'jwt_auth_before_authenticate', 'x' );",
        "# jwt_auth_before_authenticate",
        "/* jwt_auth_before_authenticate */",
        "/** Runs jwt_auth_before_authenticate. */ function x() {}",
        "add_filter( 'jwt_auth_expire', 'x' ); add_filter( 'jwt_auth_token_user_data', 'x' );",
        "add_filter( 'graphql_jwt_auth_before_authenticate', 'x' );",
        "add_filter( 'jwt_auth_before_authenticate_x', 'x' );",
        "$jwt_auth_before_authenticate = 1; echo $this->x[$jwt_auth_before_authenticate];",
        "$table = $wpdb->prefix . 'jwt_auth_tokens'; $o = get_option( 'jwt_auth_pro_settings' );",
        "new WP_Error( 'jwt_auth_failed', 'x' ); $domain = 'jwt_auth';",
        "$like = \"option_name LIKE 'jwt_auth_%'\";",
    ] {
        is_none(code);
    }
    assert_eq!(of_file("<p>jwt_auth_before_authenticate</p>\n<?php echo 1; ?>\njwt_auth_before_authenticate"), [""; 0]);
    assert_eq!(of_file("jwt_auth_before_authenticate"), [""; 0], "it is no code");
}

#[test]
fn code_that_is_not_understood_is_a_hit_wherever_a_name_stands() {
    for code in [
        "function ( { apply_filters( 'jwt_auth_before_authenticate', 1 );",
        "// jwt_auth_before_authenticate \n $a = = ;",
        "add_filter( 'jwt_auth_before_authenticate'",
    ] {
        is_hit(code);
    }
    assert_eq!(of_code("$a = = ; echo 'jwt_auth_expire';"), [""; 0]);
    assert_eq!(of_code("$a = = ;\nadd_filter( 'jwt_auth_' . $x, 'y' );"), ["3 jwt_auth_*"]);
    let bytes = b"<?php \xff\xfe \x00 jwt_auth_token_refreshed (";
    assert_eq!(names(bytes, Form::File).len(), 1);
}

#[test]
fn one_file_has_a_bounded_number_of_hits() {
    let code = "add_filter( 'jwt_auth_before_authenticate', 'x' );\n".repeat(100);
    let found = of_code(&code);
    assert_eq!((found.len(), found.last().unwrap().as_str()), (51, "52 more of them"));
    // One line is reported once.
    assert_eq!(of_code(&"f( 'jwt_auth_before_authenticate' );".repeat(10)).len(), 1);
}

#[test]
fn deep_nesting_costs_no_stack() {
    let deep = |open: &str, close: &str| {
        let (open, close) = (open.repeat(30_000), close.repeat(30_000));
        of_code(&format!("$x = {open}'jwt_auth_before_authenticate'{close};"))
    };
    for (open, close) in [("(", ")"), ("[", "]"), ("f(", ")"), ("'a' . (", ")")] {
        assert!(deep(open, close).iter().any(|found| found == "2 jwt_auth_before_authenticate"), "{open}");
    }
}

#[test]
fn the_free_plugin_fires_hooks_of_the_same_names() {
    let of_the_free_plugin = "/** Let the user modify the data before send it back */
        $data = array( 'token' => $token, 'user_email' => $user->data->user_email );
        return apply_filters( 'jwt_auth_token_before_dispatch', $data, $user );
        if ( is_wp_error( $user ) ) {
            $error_code = $user->get_error_code();
            return new WP_Error( '[jwt_auth] ' . $error_code, $user->get_error_message( $error_code ), array( 'status' => 403 ) );
        }
        $expire = apply_filters( 'jwt_auth_expire', $issuedAt + ( DAY_IN_SECONDS * 7 ), $issuedAt );";
    is_none(of_the_free_plugin);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), at in 0_usize..400) {
        let mut source = bytes;
        let at = at.min(source.len());
        source.splice(at..at, *b" jwt_auth_token_refreshed ");
        for form in [Form::File, Form::Code] {
            let _ = names(&source, form);
            let _ = names(&[b"<?php ".as_slice(), &source].concat(), form);
        }
    }

    #[test]
    fn no_code_panics(words in proptest::collection::vec(proptest::sample::select(vec![
        "<?php ", "?>", "'jwt_auth_token_refreshed'", "'jwt_auth_'", " . ", "(", ")", "add_filter(", "apply_filters(", "\"", "'",
        "{$x}", "<<<A\n", "\nA;\n", "//", "/*", "*/", ";", "$x", "[", "]", "fn() => ", "%s", "?", ":", ",", "#[", "\n",
    ]), 0..60)) {
        let _ = names(words.concat().as_bytes(), Form::File);
    }
}
