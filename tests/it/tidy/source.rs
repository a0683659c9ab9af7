//! Files as the rules see them: with comments and strings blanked out where only code counts, and with test
//! code told apart.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

/// Kinds of file that people write here.
const EXTENSIONS: [&str; 11] = [
    "rs", "sql", "sh", "md", "yaml", "yml", "toml", "py", "html", "css", "js",
];
/// Files without an extension that are looked at too.
const NAMES: [&str; 2] = ["run", "Dockerfile"];

pub struct Source {
    /// Relative to the root of the repository, with `/`.
    pub path: String,
    pub text: String,
    /// `text` with comments and the insides of strings turned into blanks; lines and columns stay.
    pub code: String,
    /// The lines (from 1) that only tests compile.
    test_lines: BTreeSet<usize>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: String,
    pub line: usize,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

impl Source {
    pub fn new(path: &str, text: &str) -> Self {
        let code = if path.ends_with(".rs") {
            blank(text)
        } else {
            text.to_owned()
        };
        let test_lines = if is_test_path(path) {
            (1..=text.lines().count()).collect()
        } else {
            inline_tests(&code)
        };
        Self {
            path: path.to_owned(),
            text: text.to_owned(),
            code,
            test_lines,
        }
    }

    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    pub fn is_test(&self, line: usize) -> bool {
        self.test_lines.contains(&line)
    }

    /// Lines of code with their numbers, comments and strings blanked.
    pub fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.code.lines())
    }

    pub fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    pub fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding {
            path: self.path.clone(),
            line,
            what: what.into(),
        }
    }

    /// The line that holds this byte of `code`.
    pub fn line_of(&self, offset: usize) -> usize {
        1 + self.code[..offset].matches('\n').count()
    }
}

/// Every file of the repository that people write.
pub fn all(root: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    walk(root, root, &mut sources);
    assert!(
        sources.len() > 50,
        "only {} files found below {}",
        sources.len(),
        root.display()
    );
    marked(sources)
}

fn walk(root: &Path, folder: &Path, sources: &mut Vec<Source>) {
    let mut entries: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            // `.ci` is ours; other dot folders belong to tools.
            let skipped = name == "target"
                || name == "node_modules"
                || (name.starts_with('.') && name != ".ci");
            if !skipped {
                walk(root, &path, sources);
            }
            continue;
        }
        let extension = path
            .extension()
            .map(|extension| extension.to_string_lossy().into_owned());
        let wanted = match &extension {
            Some(extension) => EXTENSIONS.contains(&extension.as_str()),
            None => NAMES.contains(&name.as_str()),
        };
        if wanted {
            let relative = path
                .strip_prefix(root)
                .unwrap()
                .to_string_lossy()
                .replace('\\', "/");
            sources.push(Source::new(&relative, &fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Marks the files that a `#[cfg(test)] mod name;` elsewhere makes test code.
pub fn marked(mut sources: Vec<Source>) -> Vec<Source> {
    let mut folders_and_files = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
        let base = match file {
            "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
            file => format!("{folder}/{}", file.trim_end_matches(".rs")),
        };
        let mut under_test = false;
        for line in source.code.lines().map(str::trim) {
            if line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(any(test, ") {
                under_test = true;
            } else if line.starts_with("#[") {
                continue;
            }
            let declaration = line
                .trim_start_matches("#[cfg(test)]")
                .trim_start_matches("pub(crate)")
                .trim_start_matches("pub ")
                .trim();
            if let Some(name) = declaration
                .strip_prefix("mod ")
                .and_then(|rest| rest.strip_suffix(';'))
                && under_test
            {
                folders_and_files.push(format!("{base}/{name}.rs"));
                folders_and_files.push(format!("{base}/{name}/"));
            }
            under_test = under_test && (line.is_empty() || line == "#[cfg(test)]");
        }
    }
    for source in &mut sources {
        let is_test = folders_and_files.iter().any(|test| {
            source.path == *test || (test.ends_with('/') && source.path.starts_with(test))
        });
        if is_test {
            source.test_lines = (1..=source.text.lines().count()).collect();
        }
    }
    sources
}

fn is_test_path(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs")
}

/// The lines of `#[cfg(test)] mod name { ... }` blocks.
fn inline_tests(code: &str) -> BTreeSet<usize> {
    let mut lines = BTreeSet::new();
    for (start, marker) in code.match_indices("#[cfg(test)]") {
        let rest = &code[start + marker.len()..];
        let Some(open) = rest.find('{') else { continue };
        // `#[cfg(test)] mod name;` has no block of its own.
        if rest[..open].contains(';') {
            continue;
        }
        let mut depth = 0_usize;
        let mut end = rest.len();
        for (offset, character) in rest.char_indices().skip_while(|(offset, _)| *offset < open) {
            match character {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                end = offset;
                break;
            }
        }
        let first = 1 + code[..start].matches('\n').count();
        let count = code[start..start + marker.len() + end]
            .matches('\n')
            .count();
        lines.extend(first..=first + count);
    }
    lines
}

/// Turns comments and the insides of string and character literals into blanks.
fn blank(text: &str) -> String {
    let bytes: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let keep =
        |out: &mut String, character: char| out.push(if character == '\n' { '\n' } else { ' ' });
    while at < bytes.len() {
        let rest = &bytes[at..];
        match rest {
            ['/', '/', ..] => {
                while at < bytes.len() && bytes[at] != '\n' {
                    out.push(' ');
                    at += 1;
                }
            }
            ['/', '*', ..] => {
                let mut depth = 0_usize;
                while at < bytes.len() {
                    let step = match &bytes[at..] {
                        ['/', '*', ..] => {
                            depth += 1;
                            2
                        }
                        ['*', '/', ..] => {
                            depth -= 1;
                            2
                        }
                        _ => 1,
                    };
                    for _ in 0..step {
                        keep(&mut out, bytes[at]);
                        at += 1;
                    }
                    if depth == 0 {
                        break;
                    }
                }
            }
            ['r', '"' | '#', ..]
                if at == 0
                    || !is_word(bytes[at - 1])
                    || (bytes[at - 1] == 'b' && (at < 2 || !is_word(bytes[at - 2]))) =>
            {
                let hashes = rest[1..]
                    .iter()
                    .take_while(|character| **character == '#')
                    .count();
                if rest.get(1 + hashes) != Some(&'"') {
                    out.push('r');
                    at += 1;
                    continue;
                }
                for character in &rest[..hashes + 2] {
                    out.push(*character);
                }
                at += hashes + 2;
                while at < bytes.len() {
                    let closes = bytes[at] == '"'
                        && bytes[at + 1..]
                            .iter()
                            .take(hashes)
                            .filter(|character| **character == '#')
                            .count()
                            == hashes;
                    if closes {
                        for character in &bytes[at..=at + hashes] {
                            out.push(*character);
                        }
                        at += hashes + 1;
                        break;
                    }
                    keep(&mut out, bytes[at]);
                    at += 1;
                }
            }
            ['"', ..] => {
                out.push('"');
                at += 1;
                while at < bytes.len() && bytes[at] != '"' {
                    let step = if bytes[at] == '\\' { 2 } else { 1 };
                    for _ in 0..step.min(bytes.len() - at) {
                        keep(&mut out, bytes[at]);
                        at += 1;
                    }
                }
                out.push('"');
                at += 1;
            }
            // A character, not a lifetime: `'x'`, `'\n'`, `'\u{1f}'`.
            ['\'', '\\', ..] | ['\'', _, '\'', ..] => {
                out.push('\'');
                at += 1;
                if bytes[at] == '\\' {
                    out.push_str("  ");
                    at += 2;
                }
                while at < bytes.len() && bytes[at] != '\'' {
                    out.push(' ');
                    at += 1;
                }
                out.push('\'');
                at += 1;
            }
            [character, ..] => {
                out.push(*character);
                at += 1;
            }
            [] => break,
        }
    }
    out
}

pub fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Where `word` stands in `text` as a whole word, at both ends where it has word characters there.
pub fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let open = word.starts_with(is_word);
    let close = word.ends_with(is_word);
    text.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| {
            let before = text[..*at].chars().next_back().is_some_and(is_word);
            let after = text[at + word.len()..].chars().next().is_some_and(is_word);
            !(open && before || close && after)
        })
}

#[test]
fn comments_strings_and_characters_are_blanked() {
    let text = "a /* b /* c */ */ d // e\n\"f\\\"g\" h 'i' '\\'' &'j r\"k\" r#\"l\"m\"# b\"n\" o";
    assert_eq!(
        blank(text),
        "a                 d     \n\"    \" h ' ' '  ' &'j r\" \" r#\"   \"# b\" \" o"
    );
}

#[test]
fn test_code_is_told_apart() {
    let sources = marked(vec![
        Source::new(
            "engine/src/a/mod.rs",
            "#[cfg(test)]\nmod hostile;\nmod plain;\n#[cfg(test)]\nmod inner {\n{}\n}\nfn b() {}\n",
        ),
        Source::new("engine/src/a/hostile.rs", "x\n"),
        Source::new("engine/src/a/hostile/deep.rs", "x\n"),
        Source::new("engine/src/a/plain.rs", "x\n"),
    ]);
    let tests: Vec<(usize, usize)> = sources
        .iter()
        .enumerate()
        .flat_map(|(index, source)| {
            (1..=8)
                .filter(|line| source.is_test(*line))
                .map(move |line| (index, line))
        })
        .collect();
    assert_eq!(tests, [(0, 4), (0, 5), (0, 6), (0, 7), (1, 1), (2, 1)]);
}
