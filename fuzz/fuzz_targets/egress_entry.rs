//! Entries and policies of callers: never a panic, an entry is printed as it is read, and what one
//! entry denies is never allowed. The first line is the text of an entry, the rest a policy.
#![no_main]

use std::net::IpAddr;

use emberd_egress::{
    Entry, EntrySpec, Host, Name, Operator, PackProfiles, Policy, PolicySpec, Verdict,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (entry, policy) = text.split_once('\n').unwrap_or((text, "{}"));
    let Ok(entry) = Entry::parse(entry) else { return };
    let printed = entry.to_string();
    assert_eq!(Entry::parse(&printed).as_ref(), Ok(&entry), "{printed}");

    let Ok(mut spec) = serde_json::from_str::<PolicySpec>(policy) else { return };
    spec.deny.push(EntrySpec::Text(printed));
    let (operator, none) = (Operator::default(), PackProfiles::new());
    let Ok(policy) = Policy::compile(&operator, &none, &spec) else { return };
    let port = entry.denied_ports().ranges()[0].0;
    let verdict = match entry.host() {
        Host::Any => policy.address(IpAddr::from([192, 0, 2, 1]), port),
        Host::Name(name) => policy.name(name, port),
        Host::Below(name) => match Name::parse(&format!("a.{name}")) {
            Ok(name) => policy.name(&name, port),
            Err(_) => return,
        },
        Host::Net(net) => policy.address(net.addr(), port),
    };
    assert!(matches!(verdict, Verdict::Denied(_)), "{verdict:?}");
});
