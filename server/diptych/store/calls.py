"""The store's kernels as interpreted handlers call them: by their compiled entry points.

Numba's dispatch looks at every argument's type, which takes longer than most of these kernels run.
The wrappers above pass nothing but the words array and ints that they have checked, so they call
directly.
Importing this module compiles the kernels, or loads them from the cache.
"""

from __future__ import annotations

from diptych.kernel import direct, ready
from diptych.store import (
    batches,
    btree,
    bulk,
    bulk_writes,
    frame_hash,
    hashing,
    heap,
    heap_bulk,
    keys,
    rows,
    sessions,
    undo,
    verify,
    verify_requests,
)

find = direct(hashing.find, 1)
find1 = direct(hashing.find1, 2)
insert = direct(rows.insert, 1)
assign = direct(rows.assign, 4)
delete = direct(rows.delete, 2)
update = direct(rows.update, 4)
update_words = direct(rows.update_words, 4)
next_row = direct(rows.next_row, 2)
open_cursor = direct(btree.open_cursor, 5)
advance = direct(btree.advance, 1)
first = direct(btree.first, 3)
mark = direct(undo.mark, 0)
rollback = direct(undo.rollback, 1)
heap_store = direct(heap.store, 2)
heap_release = direct(heap.release, 2)
heap_assign = direct(heap.assign, 4)
gather = ready(rows.gather, "(int64[::1], int64, int64[::1])")
check = ready(verify.check, "(int64[::1], int64)")
put = direct(undo.put, 2)
begin_pages = direct(undo.begin_pages, 0)
end_pages = direct(undo.end_pages, 0)
insert_staged = ready(
    bulk.insert_staged, "(int64[::1], int64, int64, int64, int64, int64[:,::1], int64[::1])"
)
heap_compact = ready(heap_bulk.compact, "(int64[::1], int64)")
heap_measure = ready(heap_bulk.measure, "(int64[::1], int64, int64, int64[::1], int64[::1])")
heap_gather = ready(
    heap_bulk.gather, "(int64[::1], int64, int64, int64[::1], int64[::1], uint8[::1])"
)
write_rows = ready(bulk_writes.write_rows, "(int64[::1], int64, int64, int64[::1], int64[::1])")
admit = direct(sessions.admit, 3)
remember = direct(sessions.remember, 5)
look_up = direct(sessions.look_up, 2)
open_session = direct(sessions.open_session, 0)
row_of_session = direct(sessions.row_of, 1)
touch = direct(sessions.touch, 1)
find_key = direct(keys.find_key, 0)
admit_key = direct(keys.admit_key, 1)
remember_key = direct(keys.remember_key, 3)
hash_frames = ready(frame_hash.hash_frames, "(uint8[::1], int64[::1], int64, int64, int64[::1])")
remember_run = ready(
    batches.remember_run,
    "(int64[::1], uint8[::1], uint8[::1], int64[::1], int64[::1], int64, uint8[::1], int64)",
)
check_requests = ready(verify_requests.check_requests, "(int64[::1],)")
