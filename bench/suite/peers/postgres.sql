-- The exchange in PL/pgSQL. A market's lock is held while its book changes; accounts are written last
-- and in order of their numbers, so that no two transactions wait for each other. TABLE: unlogged where
-- nothing is to be durable.
CREATE $TABLE market (symbol text PRIMARY KEY, tick bigint NOT NULL, lot bigint NOT NULL);
CREATE $TABLE account (
  id bigint PRIMARY KEY, cash bigint NOT NULL, reserved bigint NOT NULL CHECK (reserved <= cash)
) WITH (fillfactor = 50);
CREATE $TABLE holding (
  account bigint, symbol text, shares bigint NOT NULL, reserved bigint NOT NULL,
  PRIMARY KEY (account, symbol)
) WITH (fillfactor = 50);
CREATE SEQUENCE order_number CACHE 1;
CREATE SEQUENCE trade_number CACHE 1;
CREATE $TABLE orders (
  id bigint PRIMARY KEY, account bigint NOT NULL, symbol text NOT NULL, side int NOT NULL,
  rank bigint NOT NULL, price bigint NOT NULL, remaining bigint NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX by_book ON orders (symbol, side, rank, id);
CREATE $TABLE trade (
  id bigint PRIMARY KEY, symbol text NOT NULL, price bigint NOT NULL, quantity bigint NOT NULL,
  buyer bigint NOT NULL, seller bigint NOT NULL, time timestamptz NOT NULL
);

CREATE FUNCTION place_order(
  p_account bigint, p_symbol text, p_side int, p_price bigint, p_quantity bigint, p_until int,
  OUT placed bigint, OUT filled bigint
) LANGUAGE plpgsql AS $$
DECLARE
  traded market;
  free bigint;
  maker record;
  fill bigint;
  rest bigint := p_quantity;
  own_cash bigint := 0;
  own_reserved bigint := 0;
  owners bigint[] := '{}';
  amounts bigint[] := '{}';
  change record;
BEGIN
  IF p_price NOT BETWEEN 1 AND 100000000 OR p_quantity NOT BETWEEN 1 AND 50000000000
      OR p_side NOT IN (1, -1) THEN
    RAISE EXCEPTION 'bad_arguments';
  END IF;
  SELECT * INTO traded FROM market WHERE symbol = p_symbol;
  IF NOT FOUND THEN RAISE EXCEPTION 'unknown_symbol'; END IF;
  IF p_price % traded.tick <> 0 THEN RAISE EXCEPTION 'bad_price'; END IF;
  IF p_quantity % traded.lot <> 0 THEN RAISE EXCEPTION 'bad_quantity'; END IF;
  PERFORM pg_advisory_xact_lock(hashtext(p_symbol));
  SELECT cash - reserved INTO free FROM account WHERE id = p_account;
  IF NOT FOUND THEN RAISE EXCEPTION 'unknown_account'; END IF;
  IF p_side = 1 THEN
    IF free < p_price * p_quantity THEN RAISE EXCEPTION 'insufficient_funds'; END IF;
  ELSE
    SELECT shares - reserved INTO free FROM holding WHERE account = p_account AND symbol = p_symbol;
    IF NOT FOUND OR free < p_quantity THEN RAISE EXCEPTION 'insufficient_shares'; END IF;
  END IF;

  FOR maker IN
    SELECT id, account, price, remaining FROM orders
    WHERE symbol = p_symbol AND side = -p_side AND rank <= p_side * p_price ORDER BY rank, id
  LOOP
    fill := least(rest, maker.remaining);
    INSERT INTO trade VALUES (
      nextval('trade_number'), p_symbol, maker.price, fill,
      CASE p_side WHEN 1 THEN p_account ELSE maker.account END,
      CASE p_side WHEN 1 THEN maker.account ELSE p_account END, clock_timestamp()
    );
    IF p_side = 1 THEN
      UPDATE holding SET shares = shares - fill, reserved = reserved - fill
      WHERE account = maker.account AND symbol = p_symbol;
    ELSE
      INSERT INTO holding VALUES (maker.account, p_symbol, fill, 0)
      ON CONFLICT (account, symbol) DO UPDATE SET shares = holding.shares + fill;
    END IF;
    owners := owners || maker.account;
    amounts := amounts || maker.price * fill;
    own_cash := own_cash - p_side * maker.price * fill;
    IF fill = maker.remaining THEN
      DELETE FROM orders WHERE id = maker.id;
    ELSE
      UPDATE orders SET remaining = remaining - fill WHERE id = maker.id;
    END IF;
    rest := rest - fill;
    EXIT WHEN rest = 0;
  END LOOP;

  filled := p_quantity - rest;
  placed := 0;
  IF p_until <> 0 THEN rest := 0; END IF;
  IF filled > 0 OR (rest > 0 AND p_side = -1) THEN
    INSERT INTO holding VALUES (p_account, p_symbol, p_side * filled, 0)
    ON CONFLICT (account, symbol) DO UPDATE SET
      shares = holding.shares + p_side * filled,
      reserved = holding.reserved + CASE p_side WHEN -1 THEN rest ELSE 0 END;
  END IF;
  IF rest > 0 THEN
    IF p_side = 1 THEN own_reserved := p_price * rest; END IF;
    placed := nextval('order_number');
    INSERT INTO orders VALUES (placed, p_account, p_symbol, p_side, -p_side * p_price, p_price, rest);
  END IF;
  IF filled = 0 THEN
    IF own_reserved > 0 THEN
      UPDATE account SET reserved = reserved + own_reserved WHERE id = p_account;
    END IF;
    RETURN;
  END IF;
  FOR change IN
    SELECT id, sum(cash) AS cash, sum(reserved) AS reserved FROM (
      SELECT owner, p_side * amount, CASE p_side WHEN 1 THEN 0 ELSE -amount END
      FROM unnest(owners, amounts) AS matched (owner, amount)
      UNION ALL SELECT p_account, own_cash, own_reserved
    ) AS changes (id, cash, reserved) GROUP BY id ORDER BY id
  LOOP
    UPDATE account SET cash = cash + change.cash, reserved = reserved + change.reserved
    WHERE id = change.id;
  END LOOP;
  -- Should another market have taken the cash meanwhile, the constraint refuses all of it.
END $$;

CREATE FUNCTION cancel_order(p_account bigint, p_order bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
  found_order orders;
BEGIN
  SELECT * INTO found_order FROM orders WHERE id = p_order;
  IF NOT FOUND THEN RAISE EXCEPTION 'unknown_order'; END IF;
  IF found_order.account <> p_account THEN RAISE EXCEPTION 'not_yours'; END IF;
  PERFORM pg_advisory_xact_lock(hashtext(found_order.symbol));
  DELETE FROM orders WHERE id = p_order RETURNING * INTO found_order;
  IF NOT FOUND THEN RAISE EXCEPTION 'unknown_order'; END IF;
  IF found_order.side = 1 THEN
    UPDATE account SET reserved = reserved - found_order.price * found_order.remaining
    WHERE id = p_account;
  ELSE
    UPDATE holding SET reserved = reserved - found_order.remaining
    WHERE account = p_account AND symbol = found_order.symbol;
  END IF;
  RETURN found_order.remaining;
END $$;

CREATE FUNCTION vwap(p_symbol text, OUT trades bigint, OUT volume bigint, OUT price float8)
LANGUAGE sql AS $$
  SELECT count(*), sum(quantity)::bigint, sum(price::float8 * quantity) / sum(quantity)
  FROM trade WHERE symbol = p_symbol
$$;
