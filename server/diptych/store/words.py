"""Where things lie in a region: the word positions that layout, kernels and views agree on.

A region is addressed as 64-bit words. Page 0 is the mirror's stamp. Page 1 is the system header,
page 2 and on hold one *state* block a table, an index and a heap (what changes with every insert,
kept together so that it costs one page an epoch), then the *descriptor* of each table (fixed by
layout and growth).
After the region, at the next addresses, comes each process's private scratch: kernel arguments,
cursors and the undo log. It is never mirrored.

This module holds constants alone; `layout` writes what they name, kernels read it.
"""

from __future__ import annotations

PAGE_WORDS = 512

# System header (page 1).
MAGIC = 512
FORMAT = 513
SEQUENCE = 514  # number of the transaction that runs, or ran last
HISTORY = 515
NOW = 516  # time of that transaction, ns since 1970
SEED = 517  # of index hashing and of db.random
SCRATCH = 518  # word position where the scratch begins
SETUP_DONE = 519
TABLE_COUNT = 520
FINGERPRINT = 521  # four words
SCHEMA_WORDS = (
    525  # length in bytes of the schema text, which is on the pages after the descriptors
)
SCHEMA_AT = 526

# Of the system header, too: rows of an import that nobody sees yet (store/staging.py).
STAGING = 900  # word position of the range that holds their value words; this and the next two
STAGING_WORDS = 901  # are what the range is known by
STAGING_ALLOCATED = 902  # words that have memory; grows between batches
STAGING_BLOB = 903  # the same of the range that holds the bytes of their str and bytes values
STAGING_BLOB_WORDS = 904
STAGING_BLOB_ALLOCATED = 905
STAGING_TOKEN = 906  # names the import that is under way; 0: none
STAGING_TABLE = 907  # its table's descriptor
STAGING_ROWS = 908
STAGING_BYTES = 909  # used of the second range
STAGING_HEAP_WORDS = 910  # words of the table's heap that those will take
STAGING_BEGAN = 911  # ns since 1970
STAGING_COMMITTED = 912  # the token of the last import that became visible

# Of the system header, too: who asked, and what was answered, for retries (store/sessions.py,
# answers.py, keys.py). A range each, known by three words as staging is.
SESSIONS = 913
SESSIONS_WORDS = 914
SESSIONS_ALLOCATED = 915
ANSWERS = 916
ANSWERS_WORDS = 917
ANSWERS_ALLOCATED = 918
KEYS = 919
KEYS_WORDS = 920
KEYS_ALLOCATED = 921
SESSIONS_HIGH = 922  # slots ever used
ANSWERS_HEAD = 923  # position, in bytes since the beginning, where the next answer goes
KEYS_HEAD = 924  # keys ever remembered
KEYS_TAIL = 925  # how many of them were forgotten
KEY_BUCKETS = 926  # a power of two: words at the beginning of KEYS, the rows follow

# A session: a row of SESSION_WORDS.
SESSION_WORDS = 32
R_NUMBER = 0  # its transaction's number above SLOT_BITS of the slot; 0: none yet
R_IDENTITY = 1  # two words
R_CALLER = 3  # four words of UTF-8
R_USED = 7  # ns since 1970, of the transactions' clock
R_MAX = 8  # highest request number
R_LAST = 9  # position of its last answer; 0: none
R_BITS = 16  # WINDOW bits: request n at n modulo WINDOW, whether it was answered
SLOT_BITS = 20
WINDOW = 1024
CALLER_WORDS = 4

# An answer: A_PAYLOAD words, then the payload, zeros up to a whole word.
A_REQUEST = 0
A_CHECK = 1  # hash of the frame
A_LENGTHS = 2  # bytes back to the session's previous answer, 0: none, above 32 bits of length
A_SEQUENCE = 3
A_WHAT = 4  # operation, the reply's kind from KIND_SHIFT on, BURNT
A_PAYLOAD = 5
KIND_SHIFT = 16
BURNT = 1 << 24  # never ran: was asked about before it came

# A key of a caller's own: a row of KEY_ROW_WORDS.
KEY_ROW_WORDS = 32
K_NEXT = 0  # next row + 1 of its bucket
K_CHECK = 1
K_TIME = 2
K_SEQUENCE = 3
K_WHAT = 4  # as A_WHAT
K_LENGTH = 5  # of the payload in bytes
K_POSITION = 6  # of the answer, where that does not fit in here; 0: none
K_NAME = 8  # CALLER_WORDS words of the caller, KEY_TEXT_WORDS of the key, its length in bytes
KEY_TEXT_WORDS = 8
KEY_NAME_WORDS = 13
K_INLINE = 21
KEY_INLINE_BYTES = 88

# State block of a table (8 words).
STATE_WORDS = 8
ROW_COUNT = 0
ROW_HIGH = 1  # rows ever used: slots below are live or on a free list
FREE = 2  # first free slot + 1, 0 when none; the live column links the rest
PENDING = 3  # first slot + 1 freed by transaction PENDING_SEQUENCE; reusable once that has ended
PENDING_LAST = 4  # last slot + 1 of that list
PENDING_SEQUENCE = 5
AUTO_LAST = 6  # highest key given out by key(auto=True)
BUCKET_COUNT = 7  # of the key's linear hash

# State block of an index (8 words).
ROOT = 0  # node number + 1, 0 when empty
HEIGHT = 1
ENTRY_COUNT = 2
NODE_HIGH = 3  # nodes ever used
NODE_FREE = 4  # first free node + 1
VERSION = 5  # counts changes, so that cursors notice

# Descriptor of a table (DESCRIPTOR_PAGES pages).
DESCRIPTOR_PAGES = 3
T_STATE = 0  # word position of its state block
T_CAPACITY = 1
T_ALLOCATED = 2  # rows that have memory; grows between batches
T_VALUES = 3  # value words in a row
T_KEYS = 4  # key words: the first T_KEYS of T_KEY_VALUE
T_AUTO = 5  # 1 when value word T_KEY_VALUE[0] is a counter
T_INDEXES = 6
T_LIVE = 7  # word position of the live column: -1 live, else next free slot + 1
T_NEXT = 8  # word position of the hash chain's column: next row + 1
T_BUCKETS = 9  # word position of the bucket heads: first row + 1; capacity words
T_HEAPS = 10  # how many value words are references into the heap
T_KEY_VALUE = 16  # up to KEY_WORDS_MAX value-word numbers
T_HEAP = 24  # word position of the heap; this and the next two are what a heap is known by
T_HEAP_WORDS = 25  # as long as it may get
T_HEAP_ALLOCATED = 26  # words that have memory; grows between batches
T_HEAP_STATE = 27  # word position of its state block
T_BASE = 64  # per value word: word position of row 0
T_STRIDE = 320  # per value word: words from one row to the next, 0 where rows share words
T_PACK = 576  # per value word: how rows share words, see below
T_INDEX = 832  # per index: its descriptor, INDEX_WORDS each
VALUES_MAX = 256
KEY_WORDS_MAX = 8
INDEXES_MAX = 10

# T_PACK: 0 where each row has whole words, else 2^k rows share one, in the order of its bytes from
# the lowest (of its bits, where k is 6), so that memory reads as an array of small numbers.
PACK_ROWS = 7  # mask of k: 1, 2, 3 or 6
PACK_SIGNED = 8  # what is read is sign-extended
PACK_HEAP = 16  # a reference into the table's heap; whole words

# State block of a heap (HEAP_STATE_WORDS words).
HEAP_STATE_WORDS = 64
H_TOP = 0  # words ever used
H_USED = 1  # words in blocks that hold values
H_FREE = 2  # words in free blocks
H_COUNTERS = 3  # how many of these there are
H_COMPACTED = 3  # 1 + number of the transaction for which the heap was last compacted
H_LISTS = 8  # per size class: first free block + 1, whose first word links the next
# A reference: word position of the block, from the heap's start, above the length in bytes. 0 is
# the empty value, which has no block.
REFERENCE_BITS = 24
HEAP_VALUE_BYTES_MAX = (1 << REFERENCE_BITS) - 1

# Descriptor of an index (inside its table's page).
INDEX_WORDS = 32
X_STATE = 0
X_TABLE = 1  # word position of the table's descriptor
X_KEYS = 2  # key words
X_UNIQUE = 3  # 1: no two rows may agree on all key words
X_NODES = 4  # word position of node 0
X_NODES_MAX = 5
X_NODES_ALLOCATED = 6  # nodes that have memory; grows between batches
X_VALUE = 8  # per key word: which value word of the row
X_TEXT = 16  # per key word: how it compares, one of the orders
ORDER_INT = 0
ORDER_TEXT = 1  # as big-endian unsigned
ORDER_FLOAT = 2
ORDER_UNSIGNED = 3
ORDER_VALID = 4  # tells values from None; where it is 0 in a key, `unique` does not look

NODE_WORDS = 128  # 1 KiB: a quarter page, so an insert moves little and undo stays short

# A node of an index: how many entries, a link that only free nodes use, then the entries in order.
# A leaf's entry is the comparable key words and the row; an inner node's is a lower bound of that
# form (all zero in entry 0, which has none) and the child's number + 1.
N_COUNT = 0
N_LINK = 1  # free nodes: next free node + 1
N_ENTRIES = 2
HEIGHT_MAX = 16

# Scratch, from words[SCRATCH].
S_UNDO_TOP = 0  # words of undo in use
S_UNDO_LIMIT = 1
S_CURSOR_SERIAL = 2  # cursors ever opened
S_FAULT = (
    3  # position of the descriptor a kernel failed at (which table or index must grow, or refused)
)
S_HEAP_WORDS = 4  # with GROW_HEAP: how many words the heap needs at the least
S_WORD = 5  # the word that an update is about to write
S_PAGES = 8  # while the undo log is kept in pages: where the bitmap of those saved is; else 0
S_PAGES_LIMIT = 9  # and what S_UNDO_LIMIT was
S_RANDOM_SEQUENCE = 10  # which transaction drew random numbers last; -1: it begins anew
S_RANDOM_COUNT = 11  # how many it has drawn
S_KEY = 16  # the key that a kernel works with: KEY_WORDS_MAX words, a row and a child
S_PATH = 32  # a descent, from the leaf up: HEIGHT_MAX pairs of node's position and entry number
S_ARGUMENT = 64  # up to VALUES_MAX words: a row's values, or a key
S_CURSORS = 320
CURSORS = 64
CURSOR_WORDS = 64
S_WAYS = S_CURSORS + CURSORS * CURSOR_WORDS  # per index: a way to a row's place, WAY_WORDS
WAY_WORDS = 64
W_KEY = 32  # the row's entry; before it HEIGHT_MAX pairs as in S_PATH
W_NODE = 48  # where the descent is
W_LEVEL = 49  # -1 when it has arrived
S_CALL = S_WAYS + INDEXES_MAX * WAY_WORDS  # one call of a compiled handler, CALL_WORDS
S_CALL_CODE = S_CALL  # why it failed: one of the codes below
S_CALL_REASON = S_CALL + 2  # number of the rejection, when that is why
S_BUILT_USED = S_CALL + 3  # words of S_BUILT that this call has taken
S_QUERY_SEQUENCE = S_CALL + 4  # what `db.sequence` is in a query
S_CALL_ARGUMENTS = S_CALL + 8
S_CALL_ANSWER = S_CALL + 256  # its value, or the details of its rejection
CALL_WORDS = 512
CALL_ARGUMENTS_MAX = 248
CALL_ANSWER_MAX = 256
# The control page, or zeros where there is none: whole pages from the scratch's beginning.
S_CONTROL = -(-(S_CALL + CALL_WORDS) // PAGE_WORDS) * PAGE_WORDS
S_BLOB = S_CONTROL + PAGE_WORDS  # bytes of a value on its way into a heap
BLOB_WORDS = (HEAP_VALUE_BYTES_MAX + 1) // 8
S_BUILT = S_BLOB + BLOB_WORDS  # what a compiled handler builds: lists and sets (store/built.py)
BUILT_WORDS = 1 << 15
S_UNDO = S_BUILT + BUILT_WORDS

# A list or a set that a compiled handler builds.
B_COUNT = 0
B_ROOM = 1  # for how many items
B_ITEMS = 2  # word position of the first
BUILT_HEADER_WORDS = 3

# A cursor's block. Bounds are prefixes of the key, compared word by word as `X_TEXT` says.
C_SERIAL = 0
C_LOW_COUNT = 1
C_HIGH_COUNT = 2
C_HIGH_OPEN = 3  # 1: entries equal to the high bound are outside
C_REVERSE = 4
C_STARTED = 5
C_LEAF = 6
C_POSITION = 7
C_VERSION = 8
C_LOW = 16  # up to KEY_WORDS_MAX words, in comparable form
C_HIGH = 24
C_LAST = 32  # comparable key words of the entry last seen, then its row
C_INDEX = 9  # word position of the index's descriptor

# What kernels return below zero.
NOT_FOUND = -1
DUPLICATE_KEY = -2
NOT_UNIQUE = -3  # S_FAULT: the index's descriptor
GROW_TABLE = -4  # S_FAULT: the table's descriptor
GROW_INDEX = -5  # S_FAULT: the index's descriptor
TABLE_FULL = -6
UNDO_FULL = -7
CURSOR_LOST = -8
NOT_LIVE = -9
REJECTED = -10  # by a compiled handler; S_CALL_REASON: which rejection
NO_SUCH_KEY = -11  # S_FAULT: the table's descriptor; S_ARGUMENT: the key
GROW_HEAP = -13  # S_FAULT: position of T_HEAP in the table's descriptor
COMPACT_HEAP = -14  # S_FAULT likewise: there is room, in pieces
HEAP_FULL = -15  # S_FAULT likewise
UNEXPECTED = -12  # a compiled handler met what only the interpreter can tell
OVER_BUDGET = -16  # the transaction has used up its time: the control page says so

# Of the control page (diptych/control_page.py), which others write meanwhile.
EXECUTING = 0  # number of the transaction that runs; 0: none
BEGAN_NS = 1
DOOMED = 2  # number of a transaction that has used up its time; 0: none

# What `sessions.admit` and its like say of a request that must not run; 0: it may, above: where
# its answer is.
REQUEST_NEW = 0
REQUEST_EXPIRED = -1  # its session is not known
REQUEST_FORGOTTEN = -2
REQUEST_CONFLICT = -3
REQUEST_NUMBER = -4  # no number that a request may have
REQUESTS_FULL = -5
# Nothing was done: the range needs memory first.
GROW_SESSIONS = -6
GROW_ANSWERS = -7
GROW_KEYS = -8
