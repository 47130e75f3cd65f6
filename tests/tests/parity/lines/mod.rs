//! Makes up command lines.

mod img;
mod io;
pub(crate) mod names;
mod nbd;

use sectora_core::io::testing::Rng;

/// What an option takes.
#[derive(Clone, Copy)]
enum Value {
    Flag,
    /// One of these; the second list is for mistakes.
    Of(&'static [&'static str], &'static [&'static str]),
}

use Value::{Flag, Of};

type Choice = (&'static [&'static str], Value);

struct Verb {
    /// Empty for a program that does one thing only.
    name: &'static str,
    options: &'static [Choice],
    /// Good and bad words for each position.
    words: &'static [(&'static [&'static str], &'static [&'static str])],
}

/// The programs that lines are made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Img,
    Io,
    Nbd,
}

impl Program {
    pub(crate) const ALL: [Self; 3] = [Self::Img, Self::Io, Self::Nbd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Img => "qemu-img",
            Self::Io => "qemu-io",
            Self::Nbd => "qemu-nbd",
        }
    }

    /// Words that no line of the program wants.
    fn strays(self) -> &'static [&'static str] {
        match self {
            Self::Img => {
                &["--foo", "-Z", "base.raw", "-f", "--output", "extra", "--f=raw", "-qZ", "--o"]
            }
            Self::Io => &["--foo", "-Z", "base.raw", "-f", "--cmd", "-c", "--n", "--read-only=1"],
            Self::Nbd => &["--foo", "-Z", "base.raw", "-f", "--port", "-p", "--s", "--list=1"],
        }
    }

    /// One command line. Many are right; the others have a mistake or two.
    pub(crate) fn random(self, rng: &mut Rng) -> Vec<String> {
        let verb = rng.pick(match self {
            Self::Img => img::VERBS,
            Self::Io => io::LINES,
            Self::Nbd => nbd::LINES,
        });
        // So many words in a hundred are wrong.
        let mistakes = *rng.pick(&[0, 0, 0, 5, 20]);
        let mut words = options(rng, verb, mistakes);
        let named = |list: &[&str]| list == names::IMAGES || list == names::OVERLAYS;
        let by_options = verb.words.iter().any(|(good, _)| named(good)) && rng.chance(25);
        if by_options {
            words.push("--image-opts".to_owned());
            if rng.chance(80) {
                words.push("--object=secret,id=a,data=x".to_owned());
            }
        }
        for (at, (good, bad)) in verb.words.iter().enumerate() {
            let (good, bad) = match by_options && named(good) {
                true => (names::BY_OPTIONS, names::BY_NO_OPTIONS),
                false => (*good, *bad),
            };
            // Without its socket a server would begin to serve.
            let needed = self == Self::Nbd && at == 0;
            if !needed && rng.chance(mistakes) && rng.chance(40) {
                continue;
            }
            words.push(choose(rng, mistakes, good, bad).to_owned());
        }
        if rng.chance(mistakes) {
            let strays = self.strays();
            let at = rng.index(words.len() + 1);
            words.insert(at, strays[rng.index(strays.len())].to_owned());
        }
        if !verb.name.is_empty() {
            words.insert(0, verb.name.to_owned());
        }
        if self == Self::Img && rng.chance(mistakes) && rng.chance(10) {
            let before = *rng.pick(&["--foo", "-Z", "-Tfoo", "--trace=foo", "--", "-", ""]);
            words.insert(0, before.to_owned());
        }
        words
    }
}

fn options(rng: &mut Rng, verb: &Verb, mistakes: u64) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let wanted = rng.below(5);
    for _ in 0..wanted {
        let (names, value) = rng.pick(verb.options);
        let name = *rng.pick(names);
        match value {
            Flag => words.push(name.to_owned()),
            Of(good, bad) => {
                let value = choose(rng, mistakes, good, bad);
                if name.starts_with("--") && rng.chance(50) {
                    words.push(format!("{name}={value}"));
                } else if !name.starts_with("--") && !value.is_empty() && rng.chance(10) {
                    words.push(format!("{name}{value}"));
                } else {
                    words.extend([name.to_owned(), value.to_owned()]);
                }
            }
        }
    }
    words
}

/// A word from `good`, or in `mistakes` of a hundred cases from `bad`.
fn choose(
    rng: &mut Rng,
    mistakes: u64,
    good: &'static [&'static str],
    bad: &'static [&'static str],
) -> &'static str {
    match rng.chance(mistakes) {
        true => bad[rng.index(bad.len())],
        false => good[rng.index(good.len())],
    }
}
