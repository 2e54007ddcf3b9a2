"""Numba's compiler with two passes of our own, before types are known and after.

Before: operators become exact ones (`exact`, `comparisons`), `raise` becomes `refuse` or `give_up`
(`rejections`), plain functions become compiled ones, so that helpers need no decorator, and what is
outside the compiled subset is refused. After: types that Python would keep apart must not have
been mixed, nothing may be allocated (a rejected transaction would leak it), and assigned columns
must be able to hold their values. Both know the line.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterator
from enum import IntEnum
from types import FunctionType, ModuleType
from typing import Any

import numba
from numba.core import ir, ir_utils, types
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import FunctionPass, register_pass
from numba.core.typed_passes import NopythonTypeInference
from numba.core.untyped_passes import IRProcessing

from diptych.schema import INT_MAX, INT_MIN
from diptych.store.compiled import comparisons, exact, indexes, lists, randoms, rejections, tables
from diptych.store.compiled.compilation import Site, running
from diptych.store.compiled.records import is_record, make_record, record_call
from diptych.store.compiled.rewriting import STAND_INS, rewritten
from diptych.store.compiled.rows import column_of
from diptych.store.compiled.sized import data_literal, literal_number
from diptych.store.compiled.source import check_source
from diptych.store.compiled.texts import is_text
from diptych.store.compiled.types import READ_ONLY, IntSetType, Refused, RowType, TableType
from diptych.store.compiled.values import check, inner, number_kind, spoken
from diptych_client.errors import Rejected

BUILTINS = {len, range, min, max, bool, int, float, enumerate, zip}
REPLACED = {**exact.OPERATORS, **comparisons.COMPARISONS}
CURES = {
    "print": "leave it out; what a handler tells, it returns",
    "isinstance": "types are known when a handler is compiled; leave the test out",
    **dict.fromkeys(("sum", "any", "all"), "write a loop"),
    **dict.fromkeys(("sorted", "reversed"), "walk an index's range(), or range(reverse=True)"),
    "next": "use first() or last() of an index",
    "round": "compute with ints and //, and say which way to round",
    **dict.fromkeys(("getattr", "hasattr", "setattr"), "write the attribute's name"),
}
"""What to write instead of some of Python's own functions."""
LOADED = (indexes, lists, randoms, tables)  # they register with Numba when they are imported


def dispatcher_of(function: Any) -> Any:
    """A plain function as one that Numba compiles with the passes of this module.

    Errors: Refused, for statements that never compile.
    """
    known = running().dispatchers
    if function not in known:
        check_source(function)
        options = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
        made = numba.njit(pipeline_class=HandlerCompiler, **options)(rewritten(function))
        known[function] = made
    return known[function]


@register_pass(mutates_CFG=False, analysis_only=False)
class ReplaceForHandlers(FunctionPass):
    """Replaces operators, raises and functions in a handler's code, or refuses them."""

    _name = "diptych_replace_for_handlers"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        code = state.func_ir
        self.raised = [
            made_by(code, inst.exception)
            for block in code.blocks.values()
            for inst in block.find_insts(ir.Raise)
        ]
        for block in code.blocks.values():
            block.body = [new for inst in block.body for new in self._replaced(code, inst)]
        code._definitions = ir_utils.build_definitions(code.blocks)
        return True

    def _replaced(self, code: Any, inst: Any) -> Iterator[Any]:
        if isinstance(inst, ir.Raise):
            yield from _raised(code, inst)
        elif not isinstance(inst, ir.Assign):
            yield inst
        elif any(inst.value is expr for expr in self.raised):
            yield ir.Assign(ir.Const(None, inst.loc), inst.target, inst.loc)
        elif isinstance(inst.value, ir.Global | ir.FreeVar):
            yield from _constant(inst, inst.value.value, inst.value.name)
        elif isinstance(inst.value, ir.Const) and isinstance(inst.value.value, bytes):
            yield from _constant(inst, inst.value.value, "")
        elif isinstance(inst.value, ir.Expr):
            yield from self._expression(code, inst)
        else:
            yield inst

    def _expression(self, code: Any, inst: Any) -> Iterator[Any]:
        expr, function = inst.value, None
        if expr.op == "make_function":
            cure = "write a function of the module, or a loop"
            raise Refused(f"a function inside a handler is not compiled; {cure}", inst.loc)
        if expr.op == "getattr":
            module = constant(code, expr.value)
            if isinstance(module, ModuleType):
                yield from _constant(inst, getattr(module, expr.attr, None), expr.attr)
                return
        if expr.op == "call":
            kind = constant(code, expr.func)
            if isinstance(kind, type) and issubclass(kind, IntEnum):
                cure = "its members compare with ints"
                raise Refused(f"{kind.__name__}() is not compiled; {cure}", inst.loc)
            if is_record(kind):
                before, arguments = record_call(kind, inst, expr)
                yield from before
                yield from _called(inst, make_record, arguments)
                return
        if expr.op in ("binop", "inplace_binop", "unary"):
            function = exact.IN_PLACE.get(expr.fn, expr.fn)
            if function in exact.UNCOMPILED:
                raise Refused(exact.UNCOMPILED[function], inst.loc)
        if expr.op == "unary" and expr.fn is operator.not_:
            truth = ir.Assign(inst.value, _temporary(inst, "$truth"), inst.loc)
            yield from _called(truth, bool, [expr.value])
            yield ir.Assign(ir.Expr.unary(expr.fn, truth.target, inst.loc), inst.target, inst.loc)
        elif function in REPLACED:
            operands = [expr.value] if expr.op == "unary" else [expr.lhs, expr.rhs]
            yield from _called(inst, REPLACED[function], operands)
        else:
            yield inst


def made_by(code: Any, variable: Any) -> Any:
    """What a variable is assigned, when that happens in one place; or None."""
    if variable is None:
        return None
    return ir_utils.guard(ir_utils.get_definition, code, variable)


def constant(code: Any, variable: Any) -> Any:
    """The value of a variable that the code can't change, or None."""
    found = made_by(code, variable)
    if isinstance(found, ir.Expr) and found.op == "getattr":
        module = constant(code, found.value)
        return getattr(module, found.attr, None) if isinstance(module, ModuleType) else None
    return found.value if isinstance(found, ir.Global | ir.FreeVar | ir.Const) else None


def known(value: Any, name: str, loc: Any) -> Any:
    """What stands in compiled code for a value from outside of the handler."""
    if isinstance(value, FunctionType):
        return value if value in STAND_INS.values() else dispatcher_of(value)
    if value is abs:
        return exact.OPERATORS[abs]
    if isinstance(value, type):
        if is_record(value) or issubclass(value, IntEnum | BaseException) or value in BUILTINS:
            return value
    elif isinstance(value, ModuleType) or value is len or value in (min, max) or is_plain(value):
        return value
    if isinstance(value, int):
        raise Refused(f"{name} is beyond 64 bits", loc)
    if value is ir.UNDEFINED:
        raise Refused(f"{name} is not defined", loc)
    raise Refused(f"{name} is not part of what can be compiled; {_cure(value)}", loc)


def _cure(value: Any) -> str:
    """What to write instead of a value from outside that has no compiled form."""
    name, home = getattr(value, "__name__", ""), str(getattr(value, "__module__", ""))
    if home == "builtins" and name in CURES:
        return CURES[name]
    if home.partition(".")[0] == "time":
        return "the transaction's time is db.now"
    if home.partition(".")[0] == "numpy":
        return "numpy is for interpreted queries; write a loop"
    if isinstance(value, dict | list | set):
        return "what can change is no constant; make it a tuple, or a table"
    if dataclasses.is_dataclass(value):
        return "make it a NamedTuple"
    return "leave this handler interpreted: compiled=False"


def is_plain(value: Any) -> bool:
    """Whether a constant has a compiled form."""
    if isinstance(value, tuple):
        return all(map(is_plain, value))
    if isinstance(value, int):
        return INT_MIN <= value <= INT_MAX
    return value is None or isinstance(value, float | str)


def _constant(inst: Any, value: Any, name: str) -> Iterator[Any]:
    """`inst.target = value`, which is known when the handler is compiled."""
    if isinstance(value, bytes):
        number = _temporary(inst, "$bytes")
        yield ir.Assign(ir.Const(literal_number(value, inst.loc), inst.loc), number, inst.loc)
        yield from _called(inst, data_literal, [number])
    else:
        value = known(value, name, inst.loc)
        yield ir.Assign(ir.Global(inst.target.name, value, inst.loc), inst.target, inst.loc)


def _temporary(inst: Any, name: str) -> Any:
    return ir.Var(inst.target.scope, ir_utils.mk_unique_var(name), inst.loc)


def _called(inst: Any, function: Any, arguments: list[Any]) -> Iterator[Any]:
    """`inst.target = function(*arguments)`."""
    name = _temporary(inst, "$called")
    yield ir.Assign(ir.Global(function.__name__, function, inst.loc), name, inst.loc)
    yield ir.Assign(ir.Expr.call(name, arguments, (), inst.loc), inst.target, inst.loc)


def _raised(code: Any, inst: Any) -> Iterator[Any]:
    """A `raise`, as a call that ends the handler; the raise that follows is never reached."""
    expr = made_by(code, inst.exception)
    scope = next(iter(code.blocks.values())).scope
    target = ir.Var(scope, ir_utils.mk_unique_var("$raised"), inst.loc)
    call = ir.Assign(ir.Const(None, inst.loc), target, inst.loc)
    is_call = isinstance(expr, ir.Expr) and expr.op == "call"
    if is_call and constant(code, expr.func) is Rejected:
        literal = constant(code, expr.args[0]) if len(expr.args) == 1 else None
        if not isinstance(literal, str) or expr.vararg or expr.varkwarg:
            form = 'raise Rejected("no_funds", needed=...)'
            raise Refused(f"the code of a rejection must be a literal: {form}", inst.loc)
        names = tuple(name for name, _ in expr.kws)
        number = running().site_number(Site(literal, names))
        site = ir.Var(scope, ir_utils.mk_unique_var("$site"), inst.loc)
        yield ir.Assign(ir.Const(number, inst.loc), site, inst.loc)
        yield from _called(call, rejections.refuse, [site, *(value for _, value in expr.kws)])
    else:
        yield from _called(call, rejections.give_up, [])
    yield ir.StaticRaise(AssertionError, None, inst.loc)


@register_pass(mutates_CFG=False, analysis_only=True)
class CheckHandlerTypes(FunctionPass):
    """Refuses what Numba would compile to something else than Python does."""

    _name = "diptych_check_handler_types"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        self.code, self.kinds = state.func_ir, state.typemap
        self.models = state.targetctx.data_model_manager
        for block in self.code.blocks.values():
            for inst in block.body:
                if isinstance(inst, ir.SetAttr):
                    self._check_assignment(inst)
                elif isinstance(inst, ir.Assign):
                    self._check_value(inst)
        return False

    def _check_assignment(self, inst: Any) -> None:
        row = inner(self.kinds[inst.target.name])
        if not isinstance(row, RowType):
            raise Refused(f"{spoken(row)} can't be changed", inst.loc)
        if not row.table.db.writable:
            raise Refused(READ_ONLY, inst.loc)
        column, place = column_of(row.table, inst.attr), f"{row.table.spec.name}.{inst.attr}"
        if column.key:
            raise Refused(f"{place} is part of the key and can't be assigned", inst.loc)
        try:
            check(column, self.kinds[inst.value.name], place)
        except Refused as refused:
            raise Refused(refused.message, inst.loc) from None

    def _check_value(self, inst: Any) -> None:
        value, target = inst.value, self.kinds[inst.target.name]
        sources = [value] if isinstance(value, ir.Var) else []
        if isinstance(value, ir.Expr):
            if value.op == "phi":
                sources = [each for each in value.incoming_values if each is not ir.UNDEFINED]
            elif value.op == "cast":
                sources = [value.value]
            elif value.op == "binop":
                self._check_binop(value, inst.loc)
            elif value.op == "call":
                self._check_call(value, inst.loc)
        for source in sources:
            found = self.kinds[source.name]
            kinds = {number_kind(found), number_kind(target)}
            if None not in kinds and len(kinds) > 1:
                both = f"{spoken(found)} here and {spoken(target)} elsewhere"
                name = source.name.split(".")[0]
                raise Refused(f"{name} is {both}; make it one of them", inst.loc)
        if isinstance(inner(target), types.Integer) and inner(target) != types.int64:
            raise Refused("an int beyond 64 bits", inst.loc)
        if not isinstance(target, types.StringLiteral) and self._allocates(target):
            cure = "use a loop, a tuple, or compiled=False"
            raise Refused(f"{spoken(target)} is not compiled in a transaction; {cure}", inst.loc)

    def _allocates(self, kind: Any) -> bool:
        return bool(self.models[kind].contains_nrt_meminfo())

    def _check_binop(self, expr: Any, loc: Any) -> None:
        left, right = self.kinds[expr.lhs.name], self.kinds[expr.rhs.name]
        if expr.fn in (operator.is_, operator.is_not):
            if not any(isinstance(kind, types.NoneType) for kind in (left, right)):
                raise Refused("`is` compares with None alone; use ==", loc)
        elif expr.fn is operator.contains and not isinstance(left, TableType | IntSetType):
            if is_text(inner(left)):
                return
            ints = isinstance(left, types.BaseTuple) and {*map(number_kind, left)} == {"int"}
            if not ints or number_kind(right) != "int":
                cases = "tables, text in text, and an int in a tuple of ints"
                raise Refused(f"`in` is compiled for {cases}", loc)

    def _check_call(self, expr: Any, loc: Any) -> None:
        function = constant(self.code, expr.func)
        kinds = [number_kind(self.kinds[variable.name]) for variable in expr.args]
        if function in (min, max) and (len(kinds) < 2 or len(set(kinds)) > 1 or None in kinds):
            name = function.__name__
            raise Refused(f"{name}() is compiled for two or more numbers of one type", loc)
        if function is int and kinds not in (["int"], ["bool"]):
            raise Refused("int() is compiled for ints and bools alone", loc)
        if function is float and kinds not in (["int"], ["float"]):
            raise Refused("float() is compiled for ints and floats alone", loc)


class HandlerCompiler(CompilerBase):
    """Numba's usual pipeline with our passes in it."""

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state, "diptych_handler")
        passes.add_pass_after(ReplaceForHandlers, IRProcessing)
        passes.add_pass_after(CheckHandlerTypes, NopythonTypeInference)
        passes.finalize()
        return [passes]
