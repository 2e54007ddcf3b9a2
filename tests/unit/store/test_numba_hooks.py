"""The half-private parts of Numba that the compiled lane stands on, one test each: the name of the
one that fails says what a new version of Numba changed."""

from __future__ import annotations

import inspect
import operator
from types import SimpleNamespace
from typing import Any

import llvmlite.binding as llvm
import numba
import pytest
from llvmlite import ir
from numba.core import compiler, ir_utils, registry, typed_passes, types, untyped_passes
from numba.core import ir as numba_ir
from numba.core.compiler_machinery import FunctionPass, register_pass
from numba.core.datamodel import models
from numba.core.imputils import (
    fix_returning_optional,
    lower_builtin,
    lower_getattr_generic,
    lower_setattr_generic,
)
from numba.core.typing.templates import (
    AbstractTemplate,
    AttributeTemplate,
    infer_getattr,
    infer_global,
    signature,
)
from numba.extending import intrinsic, register_model

I64 = ir.IntType(64)


class Box(types.Type):
    """A value type without a Python object: one word."""

    def __init__(self) -> None:
        super().__init__("Box")


@register_model(Box)
class BoxModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: types.Type) -> None:
        super().__init__(manager, kind, I64)


@intrinsic
def box(context: Any, value: Any) -> Any:
    return Box()(types.int64), lambda c, b, s, a: a[0]


def marked(value: int) -> int:
    return value


@infer_global(marked)
class Marked(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(types.int64, types.int64)


@lower_builtin(marked, types.int64)
def lower_marked(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.mul(args[0], I64(3))


class AddTemplate(AbstractTemplate):
    key = "test.box.add"

    def generic(self, args: Any, kws: Any) -> Any:
        assert set(kws) <= {"first", "second"}
        parameters = [
            inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=0)
            for name in ("first", "second")
        ]
        kinds = [kws.get(name, types.Omitted(0)) for name in ("first", "second")]
        made = signature(types.int64, *kinds, recvr=self.this)
        return made.replace(pysig=inspect.Signature(parameters))


@lower_builtin(AddTemplate.key, Box, types.VarArg(types.Any))
def lower_add(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    total = args[0]
    for kind, value in zip(sig.args[1:], args[1:], strict=True):
        if not isinstance(kind, types.Omitted):
            total = builder.add(total, context.cast(builder, value, kind, types.int64))
    return total


@infer_getattr
class BoxAttributes(AttributeTemplate):
    key = Box

    def generic_resolve(self, kind: Box, name: str) -> Any:
        return types.BoundFunction(AddTemplate, kind) if name == "add" else types.int64


@lower_getattr_generic(Box)
def get_from_box(context: Any, builder: Any, kind: Box, value: Any, name: str) -> Any:
    return builder.add(value, I64(len(name)))


assigned: list[str] = []


@lower_setattr_generic(Box)
def set_in_box(context: Any, builder: Any, sig: Any, args: Any, name: str) -> None:
    assigned.append(name)


@register_pass(mutates_CFG=False, analysis_only=False)
class AddsBecomeMarks(FunctionPass):
    _name = "test_adds_become_marks"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        code = state.func_ir
        for block in code.blocks.values():
            body = []
            for inst in block.body:
                value = getattr(inst, "value", None)
                if isinstance(value, numba_ir.Expr) and value.op == "binop":
                    assert value.fn is operator.add
                    name = numba_ir.Var(inst.target.scope, ir_utils.mk_unique_var("$m"), inst.loc)
                    mark = numba_ir.Global("marked", marked, inst.loc)
                    body.append(numba_ir.Assign(mark, name, inst.loc))
                    call = numba_ir.Expr.call(name, [value.lhs], (), inst.loc)
                    inst = numba_ir.Assign(call, inst.target, inst.loc)
                body.append(inst)
            block.body = body
        code._definitions = ir_utils.build_definitions(code.blocks)
        return True


class MarkingCompiler(compiler.CompilerBase):
    def define_pipelines(self) -> list[Any]:
        passes = compiler.DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(AddsBecomeMarks, untyped_passes.IRProcessing)
        passes.finalize()
        return [passes]


def test_attributes_of_value_types() -> None:
    assert numba.njit(lambda n: box(n).three + box(n).fiver)(1) == 12


def test_assignment_to_value_types() -> None:
    @numba.njit
    def assign(number: int) -> int:
        row = box(number)
        row.column = number
        return number

    assigned.clear()
    assert assign(1) == 1
    assert assigned == ["column"]


def test_bound_methods_with_keywords_left_out() -> None:
    assert numba.njit(lambda n: box(n).add(second=n * 10))(1) == 11
    assert numba.njit(lambda n: box(n).add(second=n, first=5))(1) == 7
    assert numba.njit(lambda n: box(n).add())(1) == 1


def test_functions_typed_and_lowered_by_templates() -> None:
    assert numba.njit(lambda n: marked(n))(4) == 12


def test_passes_in_the_pipeline() -> None:
    assert numba.njit(pipeline_class=MarkingCompiler)(lambda n: n + 1)(4) == 12


def test_the_pipeline_has_the_passes_that_ours_are_put_after() -> None:
    state = SimpleNamespace(
        func_ir=None,
        flags=SimpleNamespace(
            no_rewrites=False, enable_ssa=True, auto_parallel=SimpleNamespace(enabled=False)
        ),
    )
    passes = compiler.DefaultPassBuilder.define_nopython_pipeline(state).passes
    found = [each for each, _ in passes]
    assert found.index(untyped_passes.IRProcessing) < found.index(untyped_passes.GenericRewrites)
    assert typed_passes.NopythonTypeInference in found


def test_compiled_functions_have_an_address_and_a_calling_convention() -> None:
    @numba.njit
    def double(number: int) -> int:
        return number * 2

    arguments = (types.int64,)
    double.compile(arguments)
    compiled = double.overloads[arguments]
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    assert address
    llvm.add_symbol("test_numba_hooks_double", address)
    assert called_by_address(double.overloads[arguments].signature.return_type)(21) == 42


def called_by_address(result: Any) -> Any:
    @intrinsic
    def call(typing_context: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = context.call_conv.get_function_type(result, (types.int64,))
            function = ir.Function(builder.module, kind, "test_numba_hooks_double")
            status, value = context.call_conv.call_function(
                builder, function, result, (types.int64,), args
            )
            with builder.if_then(status.is_error):
                builder.ret(ir.IntType(32)(1))
            return value

        return types.int64(types.int64), generate

    return numba.njit(lambda n: call(n))


def test_none_returned_is_told_by_the_status() -> None:
    @numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
    def positive(number: int) -> int | None:
        return number if number > 0 else None

    arguments = (types.int64,)
    positive.compile(arguments)
    compiled = positive.overloads[arguments]
    result = compiled.signature.return_type
    assert isinstance(result, types.Optional)
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    llvm.add_symbol("test_numba_hooks_positive", address)

    @intrinsic
    def call(typing_context: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = context.call_conv.get_function_type(result, arguments)
            function = ir.Function(builder.module, kind, "test_numba_hooks_positive")
            status, value = context.call_conv.call_function(
                builder, function, result, arguments, args
            )
            with builder.if_then(status.is_error):
                builder.ret(ir.IntType(32)(1))
            made = signature(result, *arguments)
            optional = fix_returning_optional(context, builder, made, status, value)
            helper = context.make_helper(builder, result, value=optional)
            return builder.select(helper.valid, helper.data, I64(-1))

        return types.int64(types.int64), generate

    caller = numba.njit(lambda n: call(n))
    assert [caller(5), caller(0)] == [5, -1]


def test_optional_values_are_taken_apart_and_made() -> None:
    @intrinsic
    def doubled(typing_context: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            given = context.make_helper(builder, sig.args[0], value=args[0])
            made = context.make_helper(builder, sig.return_type)
            made.valid = given.valid
            made.data = builder.add(given.data, given.data)
            return made._getvalue()

        return types.Optional(types.int64)(types.Optional(types.int64)), generate

    @numba.njit
    def use(number: int) -> int:
        value = doubled(number if number > 0 else None)
        return -1 if value is None else value

    assert [use(4), use(-4)] == [8, -1]


def test_a_function_can_return_a_status_of_our_own() -> None:
    @intrinsic
    def leave(typing_context: Any, code: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            with builder.if_then(builder.icmp_signed(">", args[0], I64(5))):
                builder.ret(ir.IntType(32)(2))
            return context.get_dummy_value()

        return types.none(types.int64), generate

    @numba.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)
    def maybe(number: int) -> int:
        leave(number)
        return number

    arguments = (types.int64,)
    maybe.compile(arguments)
    compiled = maybe.overloads[arguments]
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    llvm.add_symbol("test_numba_hooks_maybe", address)

    @intrinsic
    def status_of(typing_context: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            kind = context.call_conv.get_function_type(types.int64, arguments)
            function = ir.Function(builder.module, kind, "test_numba_hooks_maybe")
            status, _ = context.call_conv.call_function(
                builder, function, types.int64, arguments, args
            )
            return builder.sext(status.code, I64)

        return types.int64(types.int64), generate

    status = numba.njit(lambda n: status_of(n))
    assert [status(3), status(9)] == [0, 2]


@pytest.mark.parametrize("kind", [types.int64, types.unicode_type, types.List(types.int64)])
def test_types_tell_whether_they_allocate(kind: types.Type) -> None:
    manager = registry.cpu_target.target_context.data_model_manager
    assert manager[kind].contains_nrt_meminfo() == (kind is not types.int64)
