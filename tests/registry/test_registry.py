"""Names to classes: built-ins, installed plugins, bad plugins, and what is said of each."""

import subprocess
import sys
import textwrap
from typing import Literal

import pytest
from pydantic import ValidationError

from prunekit.errors import PluginError, RecipeError
from prunekit.pruning.probes.base import Probe
from prunekit.registry import COMPRESSORS, DATASETS, MODELS, PROBES, REGISTRIES, STRATEGIES
from prunekit.registry.configs import ProbeConfig
from prunekit.registry.installed import AmbiguousNameError, UnknownNameError
from prunekit.registry.source import Description, describe_source

PROBE = """
    '''{summary}

    More of it.
    '''
    from typing import Literal
    from prunekit.pruning.probes.base import Probe, ProbeConfig

    class {cls}(Probe):
        '''{summary}

        More of it.
        '''
        paper = "arXiv:1234.56789"

        class Config(ProbeConfig):
            name: Literal["{name}"] = "{name}"
            depth: int = 1

        def due(self, clock):
            return True

        def observe(self, ctx):
            return {{}}
"""


def probe_source(name, cls="Mine", summary="Watch it."):
    return PROBE.format(name=name, cls=cls, summary=summary)


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution of one module with entry points, for the length of a test."""
    before = set(sys.modules)

    def add(distribution, entry_points, source="", folder="site", version="0.2"):
        site = tmp_path / folder
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        lines = [f"[{group}]\n{line}" for group, line in entry_points]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        module = site / f"{distribution.replace('-', '_')}.py"
        module.write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(site)
        return module

    yield add
    for name in set(sys.modules) - before:
        if name.startswith("plug_"):
            del sys.modules[name]


def test_every_builtin_loads_and_its_config_has_its_name():
    for registry in REGISTRIES.values():
        for name in (c.name for c in registry.components() if c.builtin):
            field = registry.config_class(name).model_fields["name"]
            assert field.annotation is str or name in field.annotation.__args__


def test_names_and_descriptions_import_neither_torch_nor_a_component():
    code = """
        import sys
        from prunekit.registry import REGISTRIES
        for registry in REGISTRIES.values():
            for name in registry.names():
                assert registry.describe(name).summary, name
        assert "torch" not in sys.modules
        assert "prunekit.pruning.strategies.magnitude" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_a_plugin_is_listed_without_its_import_and_used_with_it(install):
    install("plug-one", [("prunekit.probes", "mine = plug_one:Mine")], probe_source("mine"))
    assert "mine" in PROBES.names()
    assert str(PROBES.component("mine")) == "probe 'mine' of plug-one 0.2"
    assert PROBES.describe("mine") == Description("Watch it.", "arXiv:1234.56789")
    assert "plug_one" not in sys.modules
    config = PROBES.parse({"name": "mine", "depth": 3})
    assert PROBES.create(config).config.depth == 3


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("class Stop(BaseException): pass\nraise Stop", "Stop"),
        ("import no_such_module_at_all", "ModuleNotFoundError"),
        ("def broken(:", "SyntaxError"),
        ("Other = 1", "no attribute 'Mine'"),
        ("Mine = 1", "is no Probe"),
        ("class Mine: pass", "is no Probe"),
        ("from prunekit.pruning.probes.base import Probe as Mine", "does not define due, observe"),
        (probe_source("other"), "allows only the name 'other'"),
        (probe_source("mine").replace("Config(ProbeConfig)", "Settings"), "its Config is no"),
    ],
)
def test_a_broken_plugin_is_an_error_only_when_it_is_used(install, source, reason):
    install("plug-bad", [("prunekit.probes", "mine = plug_bad:Mine")], source)
    assert PROBES.parse({"name": "gradient_norm"}).name == "gradient_norm"
    with pytest.raises(PluginError, match=r"probe 'mine' of plug-bad 0\.2") as caught:
        PROBES.load("mine")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UnknownNameError, match=r"mine \(cannot be imported\)"):
        PROBES.component("qqqqqqqq")


def test_ctrl_c_during_an_import_is_not_swallowed(install):
    install("plug-int", [("prunekit.probes", "mine = plug_int:Mine")], "raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        PROBES.load("mine")


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_two_distributions_of_one_name_are_told_apart_by_theirs(install, order):
    for which in order:
        entry = [("prunekit.probes", f"mine = plug_{which}:Mine")]
        install(f"plug-{which}", entry, probe_source("mine", summary=f"Of {which}."), which)
    names = PROBES.names()
    assert {"plug-a:mine", "plug-b:mine"} < set(names)
    assert "mine" not in names
    with pytest.raises(AmbiguousNameError, match="'plug-a:mine' or 'plug-b:mine'") as caught:
        PROBES.load("mine")
    assert "plug-a 0.2" in str(caught.value)
    assert PROBES.describe("plug-b:mine").summary == "Of b."
    config = PROBES.parse({"name": "plug-b:mine", "depth": 2})
    assert config.name == "plug-b:mine"
    assert type(PROBES.create(config)).__module__ == "plug_b"
    assert PROBES.parse(config.model_dump()) == config


def test_a_builtin_cannot_be_shadowed(install):
    entry = [("prunekit.probes", "gradient_norm = plug_two:Mine")]
    install("plug-two", entry, probe_source("gradient_norm"))
    assert PROBES.load("gradient_norm").__module__ == "prunekit.pruning.probes.gradient_norm"
    assert {"gradient_norm", "plug-two:gradient_norm"} <= set(PROBES.names())
    assert PROBES.load("plug-two:gradient_norm").__module__ == "plug_two"


def test_the_first_of_two_copies_on_the_path_counts(install):
    for folder, version in (("old", "0.1"), ("new", "0.2")):
        entry = [("prunekit.probes", "mine = plug_three:Mine")]
        install("plug-three", entry, probe_source("mine"), folder, version)
    assert PROBES.component("mine").version == "0.2"


def test_broken_metadata_of_others_is_passed_over(install):
    install("plug-garbage", [("prunekit.probes", "no equals sign here")])
    install("plug-good", [("prunekit.probes", "mine = plug_good:Mine")], probe_source("mine"), "b")
    assert "mine" in PROBES.names()


def test_an_unknown_name_says_what_is_near_and_what_is_known():
    with pytest.raises(UnknownNameError) as caught:
        STRATEGIES.component("magnitud")
    assert "Did you mean 'magnitude'?" in str(caught.value)
    assert "random_subnetwork" in str(caught.value)
    with pytest.raises(UnknownNameError, match="it is a compressor"):
        STRATEGIES.component("tome")


def test_a_variant_belongs_to_the_name_before_the_colon():
    assert MODELS.component("torchvision:vit_b_16").name == "torchvision"
    assert MODELS.parse({"name": "torchvision:vit_b_16"}).name == "torchvision:vit_b_16"
    with pytest.raises(ValidationError):
        MODELS.parse({"name": "vit:large"})


class Counter(Probe):
    """Count."""

    paper = "arXiv:0000.00000"

    class Config(ProbeConfig):
        name: Literal["counter"] = "counter"
        fails: bool = False
        refuses: bool = False

        def model_post_init(self, context):
            if self.fails:
                raise RuntimeError("boom")
            if self.refuses:
                raise RecipeError("does not fit")

    def due(self, clock):
        return True

    def observe(self, ctx):
        return {}


def test_a_class_can_have_a_name_for_a_while():
    with PROBES.temporarily("counter", Counter):
        assert PROBES.load("counter") is Counter
        assert PROBES.describe("counter") == Description("Count.", "arXiv:0000.00000")
        with pytest.raises(ValueError, match="there already"), PROBES.temporarily("counter", int):
            pass
    with pytest.raises(UnknownNameError):
        PROBES.load("counter")
    with pytest.raises(ValueError, match="there already"):
        PROBES.temporarily("gradient_norm", Counter).__enter__()


def test_a_config_that_fails_is_the_plugins_fault_and_one_that_refuses_is_not():
    with PROBES.temporarily("counter", Counter):
        with pytest.raises(PluginError, match="fails while it reads its settings: RuntimeError"):
            PROBES.parse({"name": "counter", "fails": True})
        with pytest.raises(ValueError, match="does not fit"):
            PROBES.parse({"name": "counter", "refuses": True})


def test_parse_takes_a_name_a_mapping_with_lists_or_a_config_of_its_kind():
    digits = DATASETS.parse("digits")
    assert DATASETS.parse({"name": "digits", "augment": ["flip"]}).augment == ("flip",)
    assert DATASETS.parse(digits) is digits
    for wrong in (digits, 5, None, ["gradient_norm"]):
        with pytest.raises(ValueError, match="must be"):
            PROBES.parse(wrong)


@pytest.mark.parametrize(
    ("value", "path", "kind"),
    [
        ({}, ("name",), "missing"),
        ({"name": 3}, ("name",), "string_type"),
        ({"name": "nothing"}, ("name",), "name"),
        ({"name": "tome", "ratio": 3}, ("ratio",), None),
    ],
)
def test_an_error_of_a_component_keeps_its_path(value, path, kind):
    with pytest.raises(ValidationError) as caught:
        COMPRESSORS.parse(value)
    error = caught.value.errors()[0]
    assert error["loc"] == path
    assert kind in (None, error["type"])


def test_describe_follows_a_reexport_and_reads_nested_classes(tmp_path, monkeypatch):
    package = tmp_path / "plug_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit\nfrom .part import Inner as Outer\n")
    (package / "part.py").write_text(
        'class Inner:\n    """One.\n\n    Two."""\n    paper: str = "arXiv:1"\n'
        '    class Deep:\n        """Deep."""\n        paper = f"{1}"\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert describe_source("plug_pkg:Outer") == Description("One.", "arXiv:1")
    assert describe_source("plug_pkg.part:Inner.Deep") == Description("Deep.", "")
    assert "plug_pkg" not in sys.modules


@pytest.mark.parametrize(
    "value", ["no_such:Thing", "sys:exit", "plug_x:Missing", "plug_x", "", "plug_x.deeper:Missing"]
)
def test_describe_is_empty_where_the_source_does_not_tell(tmp_path, monkeypatch, value):
    (tmp_path / "plug_x.py").write_text("class Other(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert describe_source(value) == Description()


@pytest.mark.parametrize("registry", REGISTRIES.values(), ids=REGISTRIES)
def test_the_settings_of_every_component_are_resolved(registry):
    """A type that stands below its use would show as a ForwardRef in `prunekit show`."""
    for component in registry.components():
        if component.builtin:
            config = registry.config_class(component.name)
            open_types = [f.annotation for f in config.model_fields.values()]
            assert "ForwardRef" not in repr(open_types), component.name
