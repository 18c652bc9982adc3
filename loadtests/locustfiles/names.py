"""What the rows of locust's table are called: type and name. Every row of type LOSS is a failure."""

WEBSOCKET = "WS"
CONNECT = "connect"  # TCP
HANDSHAKE = "handshake"  # from the request to the answer 101
PUBLISH_ACK = "publish ack"
BACK_AGAIN = "back again"  # from a cut to being subscribed again
DELIVERY = "delivery"  # from the time in the payload to its arrival
DELIVERY_EARLY = "delivery while users come"
DELIVERY_MISSED = "delivery of what was missed"
DELIVERY_BESIDE = "delivery beside slow readers"
DELIVERY_SLOW = "delivery to slow readers"
# How late a message was of itself, and not because its reader was away or stood still.
LATENCIES = (DELIVERY_EARLY, DELIVERY, DELIVERY_BESIDE)

LOSS = "LOSS"
MISSING = "missing message"
REPEATED = "repeated or out of order"
NOT_RECOVERED = "not recovered"

TOLD = "TOLD"
GAP = "gap"
CLOSED = "CLOSED"  # by the broker; the name is the code and its word

GENERATOR = "GEN"
LAG = "lag"  # how late a greenlet of the generator's runs
LAG_EARLY = "lag while users come"
LATE = "back end late"  # how late a publish was sent
