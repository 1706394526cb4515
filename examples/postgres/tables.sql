CREATE TABLE IF NOT EXISTS clicks_by_user (
  usr bigint PRIMARY KEY,
  clicks bigint NOT NULL,
  cents bigint NOT NULL,
  last_at timestamptz
);
