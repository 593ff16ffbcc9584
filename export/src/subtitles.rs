// SPDX-License-Identifier: MPL-2.0

//! Text with markup becomes plain text, which is what muxers take of what demuxers make.

/// The text without its markup. (Pango's: tags, and five entities besides numbers.)
pub fn plain(markup: &str) -> String {
    let mut plain = String::with_capacity(markup.len());
    let mut rest = markup;
    while let Some(at) = rest.find(['<', '&']) {
        plain.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = match rest.starts_with('<') {
            true => rest.find('>'),
            false => rest.find(';'),
        };
        // What doesn't end is text.
        let Some(end) = end else {
            break;
        };
        if let Some(entity) = rest[..end].strip_prefix('&') {
            match character(entity) {
                Some(character) => plain.push(character),
                None => plain.push_str(&rest[..=end]),
            }
        }
        rest = &rest[end + 1..];
    }
    plain.push_str(rest);
    plain
}

fn character(entity: &str) -> Option<char> {
    let number = match entity.strip_prefix('#') {
        Some(number) => match number.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => number.parse().ok(),
        },
        None => None,
    };
    match entity {
        "lt" => Some('<'),
        "gt" => Some('>'),
        "amp" => Some('&'),
        "apos" => Some('\''),
        "quot" => Some('"'),
        _ => number.and_then(char::from_u32),
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn markup_goes_and_text_stays() {
        for (markup, text) in [
            ("Hello", "Hello"),
            (
                "<i>Hello</i>, <span foreground=\"red\">world</span>",
                "Hello, world",
            ),
            (
                "Tom &amp; Jerry&apos;s &lt;3 &#233;&#xe9;",
                "Tom & Jerry's <3 éé",
            ),
            ("a & b; 1 < 2", "a & b; 1 < 2"),
            ("&nbsp; &#xffffffff;", "&nbsp; &#xffffffff;"),
            ("", ""),
            ("ü<b>ö</b>ß", "üöß"),
        ] {
            assert_eq!(plain(markup), text, "{markup}");
        }
    }
}
