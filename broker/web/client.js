// The client of ws-broker; docs/browser.md explains it.

/** @typedef {(event: any) => void} Handler */
/** @typedef {{channel: string, last?: number, since?: string, onmessage?: Handler}} Channel */
/** @typedef {{channels?: (string | Channel)[], token?: () => any, [on: `on${string}`]: Handler}} Options */

const fail = (/** @type {string} */ code, message = code) => Object.assign(new Error(message), { code });

/** @param {string} url @param {Options} options */
export function connect(url, options = {}) {
  const subs = /** @type {Map<string, Channel>} */ (new Map()), commands = new Map(), live = new Set();
  const life = new AbortController();
  let state = "", dials = 0, failures = 0, lastId = 0, fresh = false;
  let socket = /** @type {any} */ (0), timer = socket, token = socket, inMs = socket, silence = socket, asks = socket;

  // Handlers may throw, and call us.
  const tell = (/** @type {any} */ event, /** @type {any} */ handlers = options) =>
    queueMicrotask(() => ({ onerror: console.error, ...handlers })["on" + event.type]?.(event));

  const become = (/** @type {string} */ next, more = {}) => tell({ type: "state", state: state = next, ...more });

  const arm = (/** @type {number} */ ms, /** @type {() => any} */ next = () => ended(1006, "silence")) => {
    clearTimeout(timer);
    timer = setTimeout(next, ms);
  };

  const send = (/** @type {any} */ fields) => state === "open" && !socket.send(JSON.stringify(fields));

  /** @param {any} fields @returns {Promise<any>} */
  const command = fields => new Promise((resolve, reject) => {
    fields.id = ++lastId;
    if (state === "closed" || commands.size > 9999) reject(fail("not_sent"));
    else commands.set(lastId, { fields, resolve, reject, sent: send(fields) });
  });

  // Id 0: asked by us, not done by the server.
  const ask = () => {
    const channel = [...subs.values()].filter(sub => !live.has(sub.channel));
    if (channel[0] && send({ type: "subscribe", channel, id: 0 })) asks.push(channel);
  };

  const enter = (/** @type {any} */ { index, channel, position, recovered, error }, /** @type {any} */ asked) => {
    channel ??= asked[index].channel;
    const sub = subs.get(channel), code = error?.code;
    if (code === "already_subscribed" || asked && !sub) return;
    if (code === "engine_unavailable" || code === "rate_limited") return setTimeout(ask, 2e3);
    if (error) {
      subs.delete(channel);
      return tell({ ...error, type: "error", channel });
    }
    if (sub && "since" in sub) tell({ type: recovered ? "recovered" : "gap", channel, position, missed: null });
    subs.set(channel, { ...sub, channel, since: position });
    live.add(channel);
  };

  const hear = (/** @type {any} */ event) => {
    const { type, id, channel } = event, asker = commands.get(id), sub = subs.get(channel);
    if (type === "hello") {
      fresh = false;
      silence = event.heartbeat_seconds * 1250 + 5e3;
      become("open");
    }
    arm(silence);
    const asked = id === 0 && type !== "unsubscribed" && asks.shift();
    for (const entry of event.channels ?? []) type !== "unsubscribed" ? enter(entry, asked) : id === 0 || subs.delete(entry.channel);
    if (type === "hello") {
      ask();
      for (const waiting of commands.values()) waiting.sent = send(waiting.fields);
    }
    if (type === "ping") failures = 0;
    if (type === "drain") inMs = event.reconnect_in_ms;
    // Not all pages at once.
    if (type === "expiring" && options.token) setTimeout(refresh, Math.random() * event.in_ms / 2);
    if (sub && event.position) sub.since = event.position;
    commands.delete(id);
    if (!asker) tell(event, sub?.onmessage ? sub : options);
    else if (type === "error") asker.reject(fail(event.code, event.message));
    else asker.resolve(event);
  };

  const refresh = async () => {
    try {
      token = await options.token?.();
      await command({ type: "refresh", token });
    } catch {
      token = 0;
    }
  };

  const ended = (/** @type {number} */ code, reason = "") => {
    const is = (/** @type {RegExp} */ band) => band.test("" + code);
    let never = is(/^45|^100[023789]/);
    if (is(/^4(219|501)/)) {
      never = fresh || never && !token;
      token = 0;
    }
    clearTimeout(timer);
    dials++;
    if (socket) socket.close(1000);
    live.clear();
    for (const [id, { sent, reject }] of commands) {
      if (sent || never) reject(fail(sent ? "outcome_unknown" : "not_sent")), commands.delete(id);
    }
    if (never) {
      become("closed", { code, reason });
      life.abort();
      return code === 1000 || tell({ type: "error", code: /code=(\w+)/.exec(reason)?.[1], message: code + " " + reason });
    }
    inMs = +(/in_ms=(\d+)/.exec(reason)?.[1] ?? inMs);
    const in_ms = inMs + (inMs && !failures ? 0 : Math.min(3e4, (is(/^42/) ? 400 : 1e3) * 2 ** failures) * (0.5 + Math.random() / 2));
    failures++;
    become("waiting", { code, reason, in_ms });
    arm(in_ms, dial);
  };

  const dial = async () => {
    const mine = ++dials;
    inMs = 0;
    asks = [];
    become("connecting");
    arm(15e3);
    try {
      if (fresh = !token) token = await options.token?.();
      if (mine !== dials) return;
      socket = new WebSocket(new URL(url, location.href).href.replace(/^http/, "ws"), ["broker.json.v1", ...(token ? ["bearer." + token] : [])]);
      socket.onmessage = (/** @type {any} */ { data }) => mine === dials && hear(JSON.parse(data));
      socket.onclose = (/** @type {any} */ { code, reason }) => mine === dials && ended(code, reason);
    } catch (error) {
      if (mine === dials) ended(1006, "" + error);
    }
  };

  // Timers of hidden tabs are late.
  const wake = () => {
    if (self.document?.hidden) return;
    if (send({ type: "ping" })) arm(5e3);
    if (state === "waiting" && !inMs) arm(Math.random() * 500, dial);
  };

  const subscribe = (/** @type {string | Channel} */ wanted) => {
    const sub = typeof wanted === "string" ? { channel: wanted } : wanted;
    subs.set(sub.channel, { ...subs.get(sub.channel), ...sub });
    ask();
  };

  options.channels?.forEach(subscribe);
  for (const name of ["online", "offline", "visibilitychange"]) addEventListener(name, wake, life);
  dial();

  return {
    subscribe,
    /** @param {string} channel */
    unsubscribe(channel) {
      subs.delete(channel);
      live.delete(channel);
      send({ type: "unsubscribe", channel, id: 0 });
    },
    /** @param {string} channel @param {any} data @param {object} [more] */
    publish: (channel, data, more) => command({ type: "publish", channel, data, ...more }),
    /** @param {string} channel @param {object} [more] */
    history: (channel, more) => command({ type: "history", channel, ...more }),
    /** @param {string} channel */
    presence: channel => command({ type: "presence", channel }),
    close: () => ended(1000),
  };
}
