"""What kernels are compiled with beyond Numba's usual pipeline.

Both passes are about what Numba must allow for in general and kernels never do: indexes that count
from the end, and callers that nobody knows. What kernels do is not known here.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from numba.core import ir, types
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import FunctionPass, register_pass
from numba.core.typed_passes import NopythonTypeInference

SHARED = (llvm.Linkage.linkonce_odr, llvm.Linkage.weak_odr)


@register_pass(mutates_CFG=False, analysis_only=False)
class IndexesAsTheyAre(FunctionPass):
    """Takes ints that index arrays as unsigned.

    Numba otherwise adds the array's length to those below zero, which no kernel has: three
    instructions at each word, and a sixth of the time of all kernels together.
    """

    _name = "diptych_indexes_as_they_are"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        calls = state.calltypes
        for inst, call in list(calls.items()):
            is_index = isinstance(inst, ir.SetItem) or getattr(inst, "op", "") == "getitem"
            if is_index and isinstance(call.args[0], types.Array) and call.args[1] == types.int64:
                array, _, *value = call.args
                del calls[inst]  # it refuses to have one replaced
                calls[inst] = call.replace(args=(array, types.uint64, *value))
        return True


@register_pass(mutates_CFG=False, analysis_only=True)
class OwnCopies(FunctionPass):
    """Gives a kernel copies of its own of all that it calls.

    Each kernel passes the array on as seven arguments, and a status and a result by way of memory.
    Where LLVM knows all callers it leaves out what they don't need, and merges what has one caller.
    """

    _name = "diptych_own_copies"

    def __init__(self) -> None:
        super().__init__()

    def run_pass(self, state: Any) -> bool:
        library = state.targetctx.codegen().create_library(state.func_id.func_qualname)
        library.enable_object_caching()  # as Numba does when it makes the library
        optimize = library._optimize_final_module

        def optimize_own() -> None:
            for function in library._final_module.functions:
                if not function.is_declaration and function.linkage in SHARED:
                    # Not internal: other code would find by name what has lost arguments.
                    function.linkage = llvm.Linkage.private
            optimize()

        library._optimize_final_module = optimize_own
        state.library = library
        return False


class KernelCompiler(CompilerBase):
    """For all kernels."""

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state, "diptych_kernel")
        passes.add_pass_after(IndexesAsTheyAre, NopythonTypeInference)
        passes.finalize()
        return [passes]


class EntryCompiler(CompilerBase):
    """For those that many calls begin with."""

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state, "diptych_entry_kernel")
        passes.add_pass_after(IndexesAsTheyAre, NopythonTypeInference)
        passes.add_pass_after(OwnCopies, NopythonTypeInference)
        passes.finalize()
        return [passes]
