//! The programs of `emberctl test` in each language it knows.

/// A language the programs are written in; its pack has the same name.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Language {
    /// The `python` pack.
    Python,
    /// The `shell` pack.
    Shell,
}

/// One program per thing to show.
pub struct Programs {
    /// Prints the kernel's boot id, its release and the name of PID 1, a line each.
    pub kernel: &'static str,
    /// Prints 6 × 7.
    pub forty_two: &'static str,
    /// Exits with code 7.
    pub exit_seven: &'static str,
    /// Prints `out` on standard output and `err` on standard error.
    pub two_outputs: &'static str,
    /// Prints standard input in capitals.
    pub upper_case_stdin: &'static str,
    /// Never ends by itself.
    pub endless: &'static str,
}

impl Language {
    /// Name of the language pack.
    pub fn pack(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Shell => "shell",
        }
    }

    /// The programs in this language.
    pub fn programs(self) -> Programs {
        match self {
            Self::Python => PYTHON,
            Self::Shell => SHELL,
        }
    }
}

const PYTHON: Programs = Programs {
    kernel: "\
for name in '/proc/sys/kernel/random/boot_id', '/proc/sys/kernel/osrelease', '/proc/1/comm':
    print(open(name).read().strip())",
    forty_two: "print(6*7)",
    exit_seven: "raise SystemExit(7)",
    two_outputs: "import sys; print('out'); print('err', file=sys.stderr)",
    upper_case_stdin: "import sys; sys.stdout.write(sys.stdin.read().upper())",
    endless: "import time\nwhile True: time.sleep(1)",
};

const SHELL: Programs = Programs {
    kernel: "cat /proc/sys/kernel/random/boot_id /proc/sys/kernel/osrelease /proc/1/comm",
    forty_two: "echo $((6 * 7))",
    exit_seven: "exit 7",
    two_outputs: "echo out; echo err >&2",
    upper_case_stdin: "tr a-z A-Z",
    endless: "while :; do sleep 1; done",
};
