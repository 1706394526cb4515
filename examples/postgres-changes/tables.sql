CREATE TABLE IF NOT EXISTS orders (id bigint PRIMARY KEY, customer text, cents bigint);
ALTER TABLE orders REPLICA IDENTITY FULL;
INSERT INTO orders SELECT i, (ARRAY['ada', 'grace', 'edsger'])[1 + i % 3], i % 500 FROM generate_series(1, 10000) i
ON CONFLICT DO NOTHING;
CREATE TABLE IF NOT EXISTS orders_by_customer (customer text PRIMARY KEY, orders bigint NOT NULL, cents bigint);
