//! One trigger's consumer group in a Redis.
//!
//! Invariant: what Redis answers is looked at before it is believed, and no answer can make this process hold more than
//! [`MAX_ANSWER_BYTES`]. Messages that are too long to be delivered stay in Redis: scripts there look at their length,
//! and copy them to the dead-letter stream without sending them here.
//!
//! Two connections: one for commands, one that waits for the next message (`XREAD BLOCK`), for a command that waits
//! holds all others of its connection up.
use super::bounded::{Allowance, Bounded};
use super::message::Fields;
use super::plan::Pending;
use super::settings::Settings;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, RedisConnectionInfo, RedisError, Value, cmd};
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// A longer message is not delivered but goes to the dead-letter stream: a function's body in one piece.
pub(super) const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// The most fields of a message: a name and a value each, 16,384 parts in the scripts below. A record of an application
/// has dozens.
pub(super) const MAX_FIELDS: usize = 8192;
/// What is read of one answer: a batch of messages ([`super::consumer::MAX_BYTES`] and one more message), their IDs and
/// names around them.
const MAX_ANSWER_BYTES: usize = 4 << 20;
/// Pending messages looked at in one command.
pub(super) const PAGE: usize = 256;
/// To take a connection, and to answer a command: Redis is single-threaded and takes microseconds, unless somebody
/// runs a slow command beside.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one wait for a message lasts before it is begun again. It shows that the connection is alive.
const WAIT: Duration = Duration::from_secs(20);
/// What is told of an error: Redis' own are a sentence.
const MAX_ERROR_CHARS: usize = 300;
/// A stream entry's ID: two numbers of 64 bits.
const MAX_ID_LEN: usize = 41;

/// Gives out new messages, until there are so many or so many bytes of them:
/// { last ID given out, pending, lag or -1, { ID, bytes, deliveries, fields (not of those that are too long) }... }.
/// A field and its value count as parts: each takes up to 13 bytes of an answer beside its own, and some 60 here, so that
/// one message of a million empty fields would break the connection under all the others of its answer.
const TAKE: &str = r"
local group, me, count, longest, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local out, total = { '', 0, -1 }, 0
for _ = 1, count do
  local answer = redis.call('XREADGROUP', 'GROUP', group, me, 'COUNT', 1, 'STREAMS', KEYS[1], '>')
  if not answer then break end
  local entry = answer[1][2][1]
  local parts, size = entry[2], 0
  for _, part in ipairs(parts) do size = size + #part end
  if size > longest or #parts > 16384 then
    out[#out + 1] = { entry[1], size, 1 }
  else
    out[#out + 1] = { entry[1], size, 1, parts }
    total = total + size + 32 * #parts
  end
  if total >= most then break end
end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local of = {}
  for i = 1, #info, 2 do of[info[i]] = info[i + 1] end
  if of['name'] == group then
    out[1], out[2] = of['last-delivered-id'], of['pending']
    if of['lag'] then out[3] = of['lag'] end
  end
end
return out";

/// Gives out pending messages again, with ARGV[5...] = ID, least idle time in ms, and so on. As TAKE's messages; one
/// that is no longer in the stream is forgotten.
const CLAIM: &str = r"
local group, me, longest, most = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local out, total = {}, 0
for i = 5, #ARGV, 2 do
  local entry = redis.call('XCLAIM', KEYS[1], group, me, ARGV[i + 1], ARGV[i])[1]
  if entry then
    local state = redis.call('XPENDING', KEYS[1], group, ARGV[i], ARGV[i], 1)[1]
    local parts, size = entry[2], 0
    for _, part in ipairs(parts) do size = size + #part end
    if size > longest or #parts > 16384 then
      out[#out + 1] = { entry[1], size, state[4] }
    else
      out[#out + 1] = { entry[1], size, state[4], parts }
      total = total + size + 32 * #parts
    end
    if total >= most then break end
  elseif #redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i]) == 0 then
    redis.call('XACK', KEYS[1], group, ARGV[i])
  end
end
return out";

/// Copies a pending message to the dead-letter stream, after the fields of ARGV[3...], and acknowledges it, at once or
/// not at all. Lua passes 8,000 arguments at most: of an entry with more fields than that only the number is kept.
const BURY: &str = r"
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1) == 0 then return 0 end
local fields = {}
for i = 3, #ARGV do fields[#fields + 1] = ARGV[i] end
local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
local own = entry and entry[2] or {}
if #own <= 7000 then
  for _, part in ipairs(own) do fields[#fields + 1] = part end
else
  fields[#fields + 1] = 'dhow-fields-left-out'
  fields[#fields + 1] = tostring(#own / 2)
end
redis.call('XADD', KEYS[2], '*', unpack(fields))
redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
return 1";

/// Why Redis did not do what it was asked, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// It is not there, or does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// It is there, and refuses.
    #[error("{0}")]
    Refused(String),
    /// What would say where it is, is missing or wrong.
    #[error("{0}")]
    Misconfigured(String),
    /// A message is there that is longer than may be read while one waits for it; the connection cannot be used any
    /// more, and nothing else is wrong.
    #[error("a message is there")]
    TooLongToWaitFor,
}

/// Where a Redis is and how to log in.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    /// Tried in order.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) login: RedisConnectionInfo,
    /// `redis://HOST:PORT/DATABASE`, without a password.
    pub(super) shown: String,
}

/// A message that was given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) id: String,
    /// Of its fields.
    pub(super) bytes: usize,
    /// Counted from 1.
    pub(super) attempt: u64,
    /// `None`: it is too long and was left in Redis.
    pub(super) fields: Option<Fields>,
}

/// What was given out, and how the group stands after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) messages: Vec<Message>,
    /// The last message that the group was given: what comes after it is new.
    pub(super) last: String,
    pub(super) pending: i64,
    /// Messages that the group was not given yet; Redis does not always know.
    pub(super) lag: Option<i64>,
}

pub(super) struct Connection {
    shown: String,
    stream: String,
    group: String,
    consumer: String,
    dead_letter_stream: String,
    commands: MultiplexedConnection,
    waiting: MultiplexedConnection,
    allowances: (Allowance, Allowance),
    /// What moves the bytes of both; ended with this.
    _drivers: JoinSet<()>,
}

impl Connection {
    /// Connects, and makes the group if it is not there: from the stream's beginning, so that what was written before
    /// the function was there is delivered too.
    pub(super) async fn open(backend: &Backend, settings: &Settings) -> Result<Self, Failure> {
        let mut drivers = JoinSet::new();
        let opening = async {
            let commands = connect(backend, ANSWER_TIMEOUT, &mut drivers).await?;
            let waiting = connect(backend, WAIT + ANSWER_TIMEOUT, &mut drivers).await?;
            Ok((commands, waiting))
        };
        let ((commands, own), (waiting, other)) =
            tokio::time::timeout(CONNECT_TIMEOUT, opening).await.unwrap_or_else(|_| {
                let seconds = CONNECT_TIMEOUT.as_secs();
                let text = format!("{} gives no connection within {seconds} s", backend.shown);
                Err(Failure::Unavailable(text))
            })?;
        let mut connection = Self {
            shown: backend.shown.clone(),
            stream: settings.stream.clone(),
            group: settings.group.clone(),
            consumer: settings.consumer.clone(),
            dead_letter_stream: settings.dead_letter_stream.clone(),
            commands,
            waiting,
            allowances: (own, other),
            _drivers: drivers,
        };
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(&connection.stream).arg(&connection.group).arg(0).arg("MKSTREAM");
        match connection.query(&create).await {
            Err(error) if error.code() == Some("BUSYGROUP") => {}
            other => drop(other.map_err(|e| connection.failed(&e))?),
        }
        Ok(connection)
    }

    async fn query(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        self.allowances.0.refill();
        command.query_async(&mut self.commands).await
    }

    async fn ask(&mut self, command: &Cmd) -> Result<Value, Failure> {
        self.query(command).await.map_err(|e| self.failed(&e))
    }

    fn failed(&self, error: &RedisError) -> Failure {
        explain(&self.shown, error)
    }

    fn odd(&self, what: &str) -> Failure {
        Failure::Refused(format!("{} answers {what} in a form that is not Redis'", self.shown))
    }

    /// Up to `count` new messages, of `bytes` altogether and one more.
    pub(super) async fn take(&mut self, count: usize, bytes: usize) -> Result<Taken, Failure> {
        let mut command = cmd("EVAL");
        command.arg(TAKE).arg(1).arg(&self.stream).arg(&self.group).arg(&self.consumer);
        command.arg(count).arg(MAX_MESSAGE_BYTES).arg(bytes);
        let answer = self.ask(&command).await?;
        taken(answer).ok_or_else(|| self.odd("XREADGROUP"))
    }

    /// Pending messages of all consumers that were idle for at least `idle`, in the order of their IDs, `after` one.
    pub(super) async fn pending(
        &mut self,
        idle: Duration,
        after: Option<&str>,
    ) -> Result<Vec<Pending>, Failure> {
        let mut command = cmd("XPENDING");
        command.arg(&self.stream).arg(&self.group).arg("IDLE").arg(milliseconds(idle));
        command.arg(after.map_or("-".to_owned(), |id| format!("({id}"))).arg("+").arg(PAGE);
        let answer = self.ask(&command).await?;
        pending(answer).ok_or_else(|| self.odd("XPENDING"))
    }

    /// Gives out these messages again, each if it was idle for so long; `bytes` as in [`Self::take`].
    pub(super) async fn claim(
        &mut self,
        ids: &[(String, Duration)],
        bytes: usize,
    ) -> Result<Vec<Message>, Failure> {
        let mut command = cmd("EVAL");
        command.arg(CLAIM).arg(1).arg(&self.stream).arg(&self.group).arg(&self.consumer);
        command.arg(MAX_MESSAGE_BYTES).arg(bytes);
        for (id, idle) in ids {
            command.arg(id).arg(milliseconds(*idle));
        }
        let answer = self.ask(&command).await?;
        array(answer).and_then(messages).ok_or_else(|| self.odd("XCLAIM"))
    }

    pub(super) async fn acknowledge(&mut self, id: &str) -> Result<(), Failure> {
        let mut command = cmd("XACK");
        command.arg(&self.stream).arg(&self.group).arg(id);
        self.ask(&command).await.map(drop)
    }

    /// Counts the message's idle time from now; `deliveries`: what is to count as the number of its attempts.
    pub(super) async fn put_off(&mut self, id: &str, deliveries: u64) -> Result<(), Failure> {
        let mut command = cmd("XCLAIM");
        command.arg(&self.stream).arg(&self.group).arg(&self.consumer).arg(0).arg(id);
        command.arg("RETRYCOUNT").arg(deliveries).arg("JUSTID");
        self.ask(&command).await.map(drop)
    }

    /// Moves the message to the dead-letter stream, with `notes` as its first fields. False if it was no longer pending.
    pub(super) async fn bury(&mut self, id: &str, notes: &[(&str, String)]) -> Result<bool, Failure> {
        let mut command = cmd("EVAL");
        command.arg(BURY).arg(2).arg(&self.stream).arg(&self.dead_letter_stream).arg(&self.group).arg(id);
        for (name, value) in notes {
            command.arg(name).arg(value);
        }
        let answer = self.ask(&command).await?;
        number(&answer).map(|n| n > 0).ok_or_else(|| self.odd("XADD"))
    }

    /// Ends when there is a message after `last`, or after a while.
    pub(super) fn wait(&self, last: &str) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        let mut command = cmd("XREAD");
        command.arg("COUNT").arg(1).arg("BLOCK").arg(milliseconds(WAIT));
        command.arg("STREAMS").arg(&self.stream).arg(last);
        let (mut waiting, allowance, shown) =
            (self.waiting.clone(), self.allowances.1.clone(), self.shown.clone());
        async move {
            allowance.refill();
            let answer: Result<Value, RedisError> = command.query_async(&mut waiting).await;
            match answer {
                Ok(_) => Ok(()),
                Err(_) if allowance.is_used_up() => Err(Failure::TooLongToWaitFor),
                Err(error) => Err(explain(&shown, &error)),
            }
        }
    }
}

/// A connection of which [`MAX_ANSWER_BYTES`] are read for each command.
async fn connect(
    backend: &Backend,
    answer_timeout: Duration,
    drivers: &mut JoinSet<()>,
) -> Result<(MultiplexedConnection, Allowance), Failure> {
    let mut why = format!("{} has no address", backend.shown);
    for address in &backend.addresses {
        let stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(e) => {
                why = format!("{} takes no connection at {address}: {e}", backend.shown);
                continue;
            }
        };
        // Commands are small and wait for each other's answers.
        let _ = stream.set_nodelay(true);
        let allowance = Allowance::new(MAX_ANSWER_BYTES);
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(answer_timeout));
        let bounded = Bounded::new(stream, allowance.clone());
        let made = MultiplexedConnection::new_with_config(&backend.login, bounded, config).await;
        let (connection, driver) = made.map_err(|e| explain(&backend.shown, &e))?;
        drivers.spawn(driver);
        return Ok((connection, allowance));
    }
    Err(Failure::Unavailable(why))
}

fn explain(shown: &str, error: &RedisError) -> Failure {
    if error.kind() == ErrorKind::AuthenticationFailed {
        return Failure::Refused(format!("{shown} refuses the user or the password"));
    }
    // Whatever answers there may say as much as it likes, and it is shown in a status.
    let said: String = error.to_string().chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS).collect();
    match error.code() {
        // It loads its data after a start: it will be there.
        Some("LOADING") => Failure::Unavailable(format!("{shown} is starting: it loads its data")),
        Some(_) => Failure::Refused(format!("{shown} refuses: {said}")),
        None if error.is_timeout() => Failure::Unavailable(format!("{shown} does not answer")),
        None => Failure::Unavailable(format!("the connection to {shown} broke off: {said}")),
    }
}

fn milliseconds(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn array(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(items) => Some(items),
        _ => None,
    }
}

fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

fn number(value: &Value) -> Option<i64> {
    match value {
        Value::Int(n) => Some(*n),
        _ => None,
    }
}

/// An entry's ID: anything else would be sent back as part of commands.
fn id(value: Value) -> Option<String> {
    let text = String::from_utf8(bytes(value)?).ok()?;
    let (time, count) = text.split_once('-')?;
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (text.len() <= MAX_ID_LEN && is_number(time) && is_number(count)).then_some(text)
}

fn message(value: Value) -> Option<Message> {
    let mut parts = array(value)?.into_iter();
    let id = id(parts.next()?)?;
    let bytes_long = usize::try_from(number(&parts.next()?)?).ok()?;
    let attempt = u64::try_from(number(&parts.next()?)?).ok()?;
    let fields = match parts.next() {
        None => None,
        Some(fields) => {
            let mut all = Vec::new();
            let mut parts = array(fields)?.into_iter();
            while let Some(name) = parts.next() {
                all.push((bytes(name)?, bytes(parts.next()?)?));
            }
            Some(all)
        }
    };
    Some(Message { id, bytes: bytes_long, attempt: attempt.max(1), fields })
}

fn messages(values: Vec<Value>) -> Option<Vec<Message>> {
    values.into_iter().map(message).collect()
}

fn taken(answer: Value) -> Option<Taken> {
    let mut parts = array(answer)?.into_iter();
    let last = id(parts.next()?)?;
    let pending = number(&parts.next()?)?;
    let lag = number(&parts.next()?).filter(|lag| *lag >= 0);
    Some(Taken { last, pending, lag, messages: messages(parts.collect())? })
}

fn pending(answer: Value) -> Option<Vec<Pending>> {
    let one = |value| {
        let mut parts = array(value)?.into_iter();
        Some(Pending {
            id: id(parts.next()?)?,
            // Another consumer's name may be anything; it is only compared.
            consumer: String::from_utf8_lossy(&bytes(parts.next()?)?).into_owned(),
            idle: Duration::from_millis(u64::try_from(number(&parts.next()?)?).unwrap_or(0)),
            deliveries: u64::try_from(number(&parts.next()?)?).unwrap_or(0),
        })
    };
    array(answer)?.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(s: &str) -> Value {
        Value::BulkString(s.into())
    }

    #[test]
    fn answers_are_read_and_nonsense_is_none() {
        let entry = |id: &str| {
            Value::Array(vec![
                text(id),
                Value::Int(2),
                Value::Int(3),
                Value::Array(vec![text("a"), text("b")]),
            ])
        };
        let answer =
            |id: &str| Value::Array(vec![text("5-1"), Value::Int(1), Value::Int(-1), entry(id), entry(id)]);
        let got = taken(answer("5-1")).unwrap();
        assert_eq!((got.last.as_str(), got.pending, got.lag, got.messages.len()), ("5-1", 1, None, 2));
        assert_eq!(
            got.messages[0],
            Message {
                id: "5-1".into(),
                bytes: 2,
                attempt: 3,
                fields: Some(vec![(b"a".to_vec(), b"b".to_vec())])
            }
        );
        for wrong in ["", "5", "5-", "-5", "a-b", "5-1 x", &format!("{}-1", "1".repeat(40))] {
            assert_eq!(taken(answer(wrong)), None, "{wrong}");
        }
        let long = Value::Array(vec![text("5-1"), Value::Int(9), Value::Int(1)]);
        assert_eq!(message(long).unwrap().fields, None);
        let odd =
            Value::Array(vec![text("5-1"), Value::Int(9), Value::Int(1), Value::Array(vec![text("a")])]);
        assert_eq!(message(odd), None, "a field without a value");
        for value in [Value::Nil, Value::Int(1), Value::Array(vec![]), Value::Array(vec![Value::Nil])] {
            assert_eq!(taken(value.clone()), None);
            assert_eq!(message(value), None);
        }
        assert_eq!(pending(Value::Array(vec![])), Some(vec![]));
        let one = Value::Array(vec![text("5-1"), text("c"), Value::Int(-1), Value::Int(7)]);
        let got = pending(Value::Array(vec![one])).unwrap();
        assert_eq!((got[0].idle, got[0].deliveries), (Duration::ZERO, 7));
    }
}
