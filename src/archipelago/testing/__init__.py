"""Contract tests of every family of parts, for those who write their own.

A contract is a function that takes one part and raises `AssertionError` where it breaks what the
rest of the program relies on. In a test module of the package that adds the part::

    import pytest
    from archipelago.testing import contracts

    @pytest.mark.parametrize("contract", contracts("aggregator"), ids=lambda c: c.__name__)
    def test_my_aggregator(contract):
        contract(MyAggregator())

They run over everything in the catalog, parts of installed packages included.
"""

from archipelago.testing.contracts import Contract, contracts

__all__ = ["Contract", "contracts"]
