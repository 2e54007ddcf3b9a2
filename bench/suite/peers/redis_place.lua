-- place_order(account, symbol, side, price, quantity, until): {order, filled}, or an error's code.
-- Orders are packed texts under numbers of fixed width, so that a book's sorted set, by rank and then
-- by member, has price-time order. `rank` is lowest for the best price of its side.
local call, pack, unpack = redis.call, cmsgpack.pack, cmsgpack.unpack
local account, symbol = ARGV[1], ARGV[2]
local side, price = tonumber(ARGV[3]), tonumber(ARGV[4])
local quantity, now = tonumber(ARGV[5]), ARGV[6] == '1'
if not (price and quantity) or price < 1 or price > 1e8 or quantity < 1 or quantity > 5e10
    or (side ~= 1 and side ~= -1) then
  return redis.error_reply('bad_arguments')
end
local market = call('HMGET', 'm:' .. symbol, 'tick', 'lot')
if not market[1] then return redis.error_reply('unknown_symbol') end
if price % tonumber(market[1]) ~= 0 then return redis.error_reply('bad_price') end
if quantity % tonumber(market[2]) ~= 0 then return redis.error_reply('bad_quantity') end
local trader, holding = 'a:' .. account, 'h:' .. account .. ':' .. symbol
local other
if side == 1 then
  other = 's:' .. symbol
  local has = call('HMGET', trader, 'c', 'r')
  if not has[1] then return redis.error_reply('unknown_account') end
  if has[1] - has[2] < price * quantity then return redis.error_reply('insufficient_funds') end
else
  other = 'b:' .. symbol
  local has = call('HMGET', holding, 's', 'r')
  if not has[1] then
    local known = call('EXISTS', trader) == 1
    return redis.error_reply(known and 'insufficient_shares' or 'unknown_account')
  end
  if has[1] - has[2] < quantity then return redis.error_reply('insufficient_shares') end
end
local left, cost, time = quantity, 0, nil
while left > 0 do
  local best = call('ZRANGE', other, 0, 0, 'WITHSCORES')
  if not best[1] or tonumber(best[2]) > side * price then break end
  local number, key = best[1], 'o:' .. best[1]
  local owner, _, maker_side, maker_price, open = unpack(call('GET', key))
  local fill = left < open and left or open
  local sum = maker_price * fill
  local owns = 'h:' .. owner .. ':' .. symbol
  if side == 1 then
    call('HINCRBY', 'a:' .. owner, 'c', sum)
    call('HINCRBY', owns, 's', -fill)
    call('HINCRBY', owns, 'r', -fill)
  else
    call('HINCRBY', 'a:' .. owner, 'c', -sum)
    call('HINCRBY', 'a:' .. owner, 'r', -sum)
    call('HINCRBY', owns, 's', fill)
    call('HSETNX', owns, 'r', 0)
  end
  if not time then
    local at = call('TIME')
    time = at[1] * 1e6 + at[2]
  end
  if side == 1 then
    call('RPUSH', 't:' .. symbol, pack(maker_price, fill, account, owner, time))
  else
    call('RPUSH', 't:' .. symbol, pack(maker_price, fill, owner, account, time))
  end
  left = left - fill
  cost = cost + sum
  if fill == open then
    call('DEL', key)
    call('ZREM', other, number)
  else
    call('SET', key, pack(owner, symbol, maker_side, maker_price, open - fill))
  end
end
local filled = quantity - left
if filled > 0 then
  call('HINCRBY', trader, 'c', -side * cost)
  call('HINCRBY', holding, 's', side * filled)
  if side == 1 then call('HSETNX', holding, 'r', 0) end
end
if left == 0 or now then return { 0, filled } end
if side == 1 then
  call('HINCRBY', trader, 'r', price * left)
else
  call('HINCRBY', holding, 'r', left)
end
local order = call('INCR', 'last')
local number = string.format('%012d', order)
call('SET', 'o:' .. number, pack(account, symbol, side, price, left))
call('ZADD', (side == 1 and 'b:' or 's:') .. symbol, -side * price, number)
return { order, filled }
