-- vwap(symbol): {trades, volume, average price as text}.
local call, unpack = redis.call, cmsgpack.unpack_limit
local key = 't:' .. ARGV[1]
local count, volume, turnover = call('LLEN', key), 0, 0
for first = 0, count - 1, 1000 do
  local part = call('LRANGE', key, first, first + 999)
  for i = 1, #part do
    local _, price, quantity = unpack(part[i], 2)
    volume = volume + quantity
    turnover = turnover + price * quantity
  end
end
return { count, volume, { ok = string.format('%.17g', turnover / volume) } }
