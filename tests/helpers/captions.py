"""Captions of many kinds."""

from __future__ import annotations

CAPTIONS = [
    "a photo of 3 dogs, it's fun!! don't you'd we're they'll I've I'm",
    "café &amp; crème &lt;b&gt; &amp;amp;",
    "schÃ¶n — “quoted” l’été ﬁ",
    "日本語のテスト 🎉👩‍🚀 한국어",
    "<start_of_text> in the middle <END_OF_TEXT>",
    "tabs\tand\nlines\r\nand \x1b[31mescapes\x0b",
    "Ⅷ ² _under_score_ 1234567890 a1b2",
    "'ſ İstanbul straße ΑΒΓ",
    "",
    "   ",
    "word " * 200,
    "x" * 400,
]
