"""Every rule has a test, and every test that names a rule names one that there is."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.contract.rules import RULES, UNTIL

TESTS = Path(__file__).parents[1]


def named(tree: ast.AST) -> Iterator[tuple[str, object]]:
    """Each test function with each argument of its `pytest.mark.rule(…)`."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.rule":
                for argument in decorator.args:
                    yield node.name, argument.value if isinstance(argument, ast.Constant) else ast.unparse(argument)


def proofs() -> dict[object, list[str]]:
    """The tests of each rule, read from the source, so that it is the same under every runner and selection."""
    found: dict[object, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for name, rule in named(ast.parse(path.read_text())):
            found[rule].append(f"{path.relative_to(TESTS)}::{name}")
    return found


def test_every_rule_has_a_test() -> None:
    proved = proofs()
    assert {rule.id: rule.says for rule in RULES.values() if rule.id not in proved} == {}


def test_every_test_names_a_rule_that_there_is() -> None:
    assert {rule: tests for rule, tests in proofs().items() if rule not in RULES} == {}


def test_what_carries_a_rule_is_a_test() -> None:
    carriers = {test.split("::")[1] for tests in proofs().values() for test in tests}
    assert {name for name in carriers if not name.startswith(("test_", "Test"))} == set()


def test_the_table_is_in_order() -> None:
    assert all(re.fullmatch(r"R-[A-H]\d*-\d+", rule) for rule in RULES)
    assert len({rule.says for rule in RULES.values()}) == len(RULES)
    assert UNTIL.keys() <= RULES.keys()


def test_the_collector_sees_decorators_of_every_kind() -> None:
    tree = ast.parse(
        """
@pytest.mark.parametrize("a", [1])
@pytest.mark.rule("R-A1-1", "R-A1-2")
async def test_a(): ...

class TestB:
    @pytest.mark.rule(NAME)
    def test_b(self): ...
"""
    )
    assert list(named(tree)) == [("test_a", "R-A1-1"), ("test_a", "R-A1-2"), ("test_b", "NAME")]
