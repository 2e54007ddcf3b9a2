-- cancel_order(account, order): the quantity that was open, or an error's code.
local call = redis.call
local key = 'o:' .. ARGV[2]
local order = call('GET', key)
if not order then return redis.error_reply('unknown_order') end
local account, symbol, side, price, remaining = cmsgpack.unpack(order)
if account ~= ARGV[1] then return redis.error_reply('not_yours') end
call('DEL', key)
if side == 1 then
  call('ZREM', 'b:' .. symbol, ARGV[2])
  call('HINCRBY', 'a:' .. account, 'r', -price * remaining)
else
  call('ZREM', 's:' .. symbol, ARGV[2])
  call('HINCRBY', 'h:' .. account .. ':' .. symbol, 'r', -remaining)
end
return remaining
