//! `TRACEPARENT` of runs, in the packs' own interpreters.

use std::collections::BTreeMap;

use emberd_proto::ContextSpec;

use crate::contexts::{Context, guest};

const FIRST: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";
const SECOND: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

/// How a language prints the variable, of its own and of a program that it starts, and sets it.
struct Speech {
    language: &'static str,
    show: &'static str,
    set: &'static str,
}

const SPEECHES: [Speech; 3] = [
    Speech {
        language: "python",
        show: "import os, subprocess\n\
               print(os.environ.get('TRACEPARENT', ''))\n\
               _ = subprocess.run('echo $TRACEPARENT', shell=True)",
        set: "import os; os.environ['TRACEPARENT'] = 'own'",
    },
    Speech {
        language: "javascript",
        show: "console.log(process.env.TRACEPARENT ?? '');\n\
               require('child_process').execSync('echo $TRACEPARENT', {stdio: 'inherit'}); null",
        set: "process.env.TRACEPARENT = 'own'; null",
    },
    Speech {
        language: "shell",
        show: "echo \"$TRACEPARENT\"; sh -c 'echo $TRACEPARENT'",
        set: "export TRACEPARENT=own",
    },
];

fn twice(value: &str) -> String {
    format!("{value}\n{value}\n")
}

#[test]
fn a_run_has_the_span_of_its_request_and_the_next_one_does_not() {
    for Speech { language, show, set } in SPEECHES {
        let Some(guest) = guest(language) else { continue };
        let mut context = Context::open(&guest, language);
        assert_eq!(context.run(show).stdout, twice(""), "{language}");
        assert_eq!(context.run_below(show, FIRST).stdout, twice(FIRST), "{language}");
        assert_eq!(context.run_below(show, SECOND).stdout, twice(SECOND), "{language}");
        let ran = context.run(show);
        assert_eq!((ran.stdout, ran.stderr), (twice(""), String::new()), "{language}");
        // What the code sets itself stays.
        context.run_below(set, FIRST);
        assert_eq!(context.run_below(show, SECOND).stdout, twice("own"), "{language}");
        assert_eq!(context.run(show).stdout, twice("own"), "{language}");
    }
}

#[test]
fn the_variable_of_a_context_wins() {
    for Speech { language, show, .. } in SPEECHES {
        let Some(guest) = guest(language) else { continue };
        let env = BTreeMap::from([("TRACEPARENT".to_owned(), "own".to_owned())]);
        let spec = ContextSpec { language: Some(language.to_owned()), env, ..Default::default() };
        let mut context = Context::open_with(&guest, spec);
        assert_eq!(context.run_below(show, FIRST).stdout, twice("own"), "{language}");
        assert_eq!(context.run(show).stdout, twice("own"), "{language}");
    }
}
