SELECT id, amount * 2 AS double FROM orders WHERE amount > 10 AND customer LIKE 'a%';
SELECT * FROM stock;
SELECT customer, COUNT(*) AS n, SUM(amount) FROM orders GROUP BY customer;
SELECT customer, COUNT(*) AS n FROM orders WHERE amount > 1 GROUP BY customer HAVING COUNT(*) > 2 AND customer <> 'x';
SELECT COUNT(*) FROM orders;
SELECT customer, window_start, COUNT(*) AS n, AVG(amount) AS a FROM TABLE(TUMBLE(orders, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY customer, window_start, window_end;
SELECT customer, window_start, COUNT(*) AS n FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' HOUR)) WHERE amount > 4 GROUP BY customer, window_start, window_end;
SELECT window_start, window_end, COUNT(*) AS n FROM TABLE(HOP(TABLE orders, DESCRIPTOR(ts), INTERVAL '5' MINUTE, INTERVAL '1' HOUR)) GROUP BY window_start, window_end;
SELECT customer, window_start, COUNT(DISTINCT id) AS n FROM TABLE(SESSION(TABLE orders PARTITION BY customer, DESCRIPTOR(ts), INTERVAL '5' MINUTE)) GROUP BY customer, window_start, window_end
