-- A replica's health becomes one value: what it counts grows with what circuits are read from.
DROP TABLE ccproxy.route_health;
CREATE TABLE ccproxy.route_health (
    route   text NOT NULL,
    replica text NOT NULL,
    account json NOT NULL,
    PRIMARY KEY (route, replica)
) WITH (fillfactor = 50);
