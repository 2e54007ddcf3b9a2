-- The exchange as stored procedures. Arguments of the script: port, wal_mode, directory.
-- Nothing yields before its commit, so each call is alone. Refused: nil and a code.
local clock = require('clock')
local port, wal_mode, directory = arg[1], arg[2], arg[3]
box.cfg({
  listen = '127.0.0.1:' .. port, wal_mode = wal_mode, work_dir = directory, log = 'tarantool.log',
  memtx_memory = 4 * 1024 * 1024 * 1024, net_msg_max = 20000, checkpoint_interval = 0, log_level = 2,
})
box.schema.user.grant('guest', 'super')

local function space(name, parts)
  local made = box.schema.space.create(name)
  made:create_index('primary', { parts = parts })
  return made
end
local market = space('market', { 1, 'string' })      -- symbol, tick, lot
local account = space('account', { 1, 'unsigned' })  -- id, cash, reserved
local holding = space('holding', { 1, 'unsigned', 2, 'string' })  -- account, symbol, shares, reserved
-- id, account, symbol, side, rank, price, remaining
local orders = space('orders', { 1, 'unsigned' })
local book = orders:create_index('book', {
  parts = { 3, 'string', 4, 'integer', 5, 'integer', 1, 'unsigned' },
})
local trade = space('trade', { 1, 'unsigned' })  -- id, symbol, price, quantity, buyer, seller, time
local last_order, last_trade = 0, 0

local function give(owner, symbol, shares)
  holding:upsert({ owner, symbol, shares, 0 }, { { '+', 3, shares } })
end

function list_symbol(symbol, tick, lot) market:insert({ symbol, tick, lot }) end
function open_account(id, cash) account:insert({ id, cash, 0 }) end
function issue_shares(id, symbol, shares) give(id, symbol, shares) end

local function match(id, symbol, side, price, quantity)
  local left, cost = quantity, 0
  local now
  while left > 0 do
    local maker = book:select({ symbol, -side }, { limit = 1 })[1]
    if not maker or maker[5] > side * price then break end
    local owner, maker_price, open = maker[2], maker[6], maker[7]
    local fill = left < open and left or open
    local amount = maker_price * fill
    now = now or clock.time64()
    last_trade = last_trade + 1
    if side == 1 then
      account:update(owner, { { '+', 2, amount } })
      holding:update({ owner, symbol }, { { '-', 3, fill }, { '-', 4, fill } })
      trade:insert({ last_trade, symbol, maker_price, fill, id, owner, now })
    else
      account:update(owner, { { '-', 2, amount }, { '-', 3, amount } })
      give(owner, symbol, fill)
      trade:insert({ last_trade, symbol, maker_price, fill, owner, id, now })
    end
    if fill == open then
      orders:delete(maker[1])
    else
      orders:update(maker[1], { { '-', 7, fill } })
    end
    left = left - fill
    cost = cost + amount
  end
  return quantity - left, cost
end

function place_order(id, symbol, side, price, quantity, now)
  if type(price) ~= 'number' or type(quantity) ~= 'number' or price < 1 or price > 1e8
      or quantity < 1 or quantity > 5e10 or (side ~= 1 and side ~= -1) then
    return nil, 'bad_arguments'
  end
  local traded = market:get(symbol)
  if not traded then return nil, 'unknown_symbol' end
  if price % traded[2] ~= 0 then return nil, 'bad_price' end
  if quantity % traded[3] ~= 0 then return nil, 'bad_quantity' end
  local trader = account:get(id)
  if not trader then return nil, 'unknown_account' end
  if side == 1 then
    if trader[2] - trader[3] < price * quantity then return nil, 'insufficient_funds' end
  else
    local held = holding:get({ id, symbol })
    if not held or held[3] - held[4] < quantity then return nil, 'insufficient_shares' end
  end
  box.begin()
  local filled, cost = match(id, symbol, side, price, quantity)
  if filled > 0 then
    if side == 1 then
      account:update(id, { { '-', 2, cost } })
      give(id, symbol, filled)
    else
      account:update(id, { { '+', 2, cost } })
      holding:update({ id, symbol }, { { '-', 3, filled } })
    end
  end
  local rest, order = quantity - filled, 0
  if rest > 0 and now == 0 then
    if side == 1 then
      account:update(id, { { '+', 3, price * rest } })
    else
      holding:update({ id, symbol }, { { '+', 4, rest } })
    end
    last_order = last_order + 1
    order = last_order
    orders:insert({ order, id, symbol, side, -side * price, price, rest })
  end
  box.commit()
  return order, filled
end

function cancel_order(id, order)
  local found = orders:get(order)
  if not found then return nil, 'unknown_order' end
  if found[2] ~= id then return nil, 'not_yours' end
  local remaining = found[7]
  box.begin()
  if found[4] == 1 then
    account:update(id, { { '-', 3, found[6] * remaining } })
  else
    holding:update({ id, found[3] }, { { '-', 4, remaining } })
  end
  orders:delete(order)
  box.commit()
  return remaining
end

function vwap(symbol)
  local count, volume, turnover = 0, 0, 0
  for _, each in trade:pairs() do
    if each[2] == symbol then
      count = count + 1
      volume = volume + each[4]
      turnover = turnover + each[3] * each[4]
    end
  end
  return count, volume, turnover / volume
end

function preload(symbol, rows)
  box.begin()
  for _, row in ipairs(rows) do
    last_trade = last_trade + 1
    trade:insert({ last_trade, symbol, row[1], row[2], row[3], row[4], 0 })
  end
  box.commit()
end

function tape()
  local found = {}
  for _, each in trade:pairs() do table.insert(found, { each[2], each[3], each[4] }) end
  return found
end

function holdings()
  local found = {}
  for _, each in account:pairs() do
    table.insert(found, { each[1], each[2], each[3], holding:select({ each[1] }) })
  end
  return found
end
