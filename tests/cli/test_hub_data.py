"""Data sets of the Hub in a configuration: each gets the commit that a run stores."""

from __future__ import annotations

from jsonargparse import Namespace

from clipkit.cli.fit import hub_data


def test_every_address_of_the_hub_is_pinned(monkeypatch):
    monkeypatch.setattr(hub_data, "pinned", lambda text: text.replace("hf://x", "hf://x@1"))
    sources = [Namespace(name="a", urls="hf://x"), Namespace(name="b", urls=["s", "hf://x"])]
    data = Namespace(train=None, val=["hf://x", "a.csv"], mixture=Namespace(sources=sources))
    hub_data.pin_hub_data(data)
    assert (data.train, data.val) == (None, ["hf://x@1", "a.csv"])
    assert [source.urls for source in sources] == ["hf://x@1", ["s", "hf://x@1"]]
