#include "bench/neighbours.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>

#include "bench/wire.h"

namespace bulkhead::bench {
namespace {

constexpr std::string_view kPlace = "/bulkhead-neighbour";
constexpr std::size_t kPipeline = std::size_t{64} * 1024;  // unsent bytes: the socket is always full

std::string place(std::string_view rest) {
  return std::string(kPlace) + std::string(rest);
}

Status ended() {
  return failure(ErrorKind::kDisconnected, "the service closed the neighbour's connection");
}

// Keeps the socket full of what `more` queues, and reads every answer.
template <typename More>
Status pump(const Hostility& how, Wire& wire, More more) {
  Wire::Message message;
  for (;;) {
    while (wire.queued() < kPipeline) more(wire);
    if (!wire.flush()) return ended();
    wire.wait(100);
    if (!wire.fill()) return ended();
    std::uint64_t answers = 0;
    while (wire.next(message)) ++answers;
    how.operations->fetch_add(answers, std::memory_order_relaxed);
  }
}

// Sends all of `requests`, each made by `make(i)`, pipelined, and waits for every reply. The first error is a
// failure, if `strict`.
template <typename Make>
Status all(Wire& wire, std::uint64_t requests, bool strict, Make make) {
  std::uint64_t sent = 0;
  Wire::Message message;
  for (std::uint64_t answered = 0; answered < requests;) {
    while (sent < requests && wire.queued() < kPipeline) make(wire, sent++);
    if (!wire.flush()) return ended();
    wire.wait(1000);
    if (!wire.fill()) return ended();
    while (wire.next(message)) {
      if (message.type == XS_WATCH_EVENT) continue;
      if (strict && message.type == XS_ERROR)
        return failure(ErrorKind::kRefused, std::string(message.payload.data()));
      ++answered;
    }
  }
  return {};
}

Status reads(const Hostility& how) {
  Result<Wire> wire = Wire::connect(how.socket);
  if (!wire) return forward(std::move(wire));
  const std::string path = place("/node");
  if (auto made = wire->call(XS_WRITE, 0, write_payload(path, "value")); !made)
    return forward(std::move(made));
  how.ready();
  const std::string payload = path_payload(path);
  return pump(how, *wire, [&](Wire& to) { to.queue(XS_READ, 0, payload); });
}

Status writes(const Hostility& how) {
  Result<Wire> wire = Wire::connect(how.socket);
  if (!wire) return forward(std::move(wire));
  how.ready();
  const std::string payload = write_payload(place("/node"), "value");
  return pump(how, *wire, [&](Wire& to) { to.queue(XS_WRITE, 0, payload); });
}

// Reads the whole directory in parts again and again, several parts at a time, and adds and removes children.
Status directory(const Hostility& how) {
  Result<Wire> wire = Wire::connect(how.socket);
  if (!wire) return forward(std::move(wire));
  const std::string directory = place("/directory");
  auto made = all(*wire, how.size, true, [&](Wire& to, std::uint64_t i) {
    to.queue(XS_WRITE, 0, write_payload(directory + "/child-" + std::to_string(i), ""));
  });
  if (!made) return made;
  how.ready();
  std::uint64_t turn = 0;
  return pump(how, *wire, [&](Wire& to) {
    const std::uint64_t offset = turn % (how.size * 10 / 4000 + 1) * 4000;
    to.queue(XS_DIRECTORY_PART, 0, path_payload(directory) + path_payload(std::to_string(offset)));
    if (turn++ % 8 != 0) return;
    const std::string child = directory + "/extra-" + std::to_string(turn % 1000);
    to.queue(XS_WRITE, 0, write_payload(child, ""));
    to.queue(XS_RM, 0, path_payload(child));
  });
}

// Makes and removes a chain as deep as paths go.
Status deep(const Hostility& how) {
  Result<Wire> wire = Wire::connect(how.socket);
  if (!wire) return forward(std::move(wire));
  std::string path = place("/deep");
  for (std::uint64_t i = 0; i < how.size; ++i) path += "/d";
  how.ready();
  return pump(how, *wire, [&](Wire& to) {
    to.queue(XS_WRITE, 0, write_payload(path, "bottom"));
    to.queue(XS_RM, 0, path_payload(place("/deep")));
  });
}

// Makes and removes a subtree of many nodes.
Status subtree(const Hostility& how) {
  Result<Wire> wire = Wire::connect(how.socket);
  if (!wire) return forward(std::move(wire));
  const std::string top = place("/subtree");
  how.ready();
  for (;;) {
    auto made = all(*wire, how.size, true, [&](Wire& to, std::uint64_t i) {
      to.queue(XS_WRITE, 0,
               write_payload(top + "/" + std::to_string(i % 100) + "/" + std::to_string(i), "value"));
    });
    if (!made) return made;
    if (auto removed = wire->call(XS_RM, 0, path_payload(top)); !removed) return forward(std::move(removed));
    how.operations->fetch_add(how.size + 1, std::memory_order_relaxed);
  }
}

// Many watches on one node of one client, which writes to it and reads its events.
Status watches(const Hostility& how) {
  Result<Wire> wire = Wire::connect(how.socket);
  if (!wire) return forward(std::move(wire));
  const std::string path = place("/watched");
  for (std::uint64_t i = 0; i < how.size; ++i) {
    auto set = wire->call(XS_WATCH, 0, path_payload(path) + path_payload("token-" + std::to_string(i)));
    if (!set) return forward(std::move(set));
  }
  how.ready();
  // One write at a time: its events are more than enough to do.
  for (std::uint64_t turn = 0;; ++turn) {
    auto written = wire->call(XS_WRITE, 0, write_payload(path, std::to_string(turn)));
    if (!written) return forward(std::move(written));
    how.operations->fetch_add(1, std::memory_order_relaxed);
  }
}

// Transactions that write many nodes; every other one meets a conflict.
Status transactions(const Hostility& how) {
  Result<Wire> wire = Wire::connect(how.socket);
  Result<Wire> other = Wire::connect(how.socket);
  if (!wire) return forward(std::move(wire));
  if (!other) return forward(std::move(other));
  how.ready();
  for (std::uint64_t turn = 0;; ++turn) {
    auto started = wire->call(XS_TRANSACTION_START, 0, path_payload(""));
    if (!started) return forward(std::move(started));
    const auto id = static_cast<std::uint32_t>(std::stoul(*started));
    auto written = all(*wire, how.size, true, [&](Wire& to, std::uint64_t i) {
      to.queue(XS_WRITE, id, write_payload(place("/transaction/" + std::to_string(i)), std::to_string(turn)));
    });
    if (!written) return written;
    if (turn % 2 == 1) {
      auto conflict = other->call(XS_WRITE, 0, write_payload(place("/transaction/0"), "conflict"));
      if (!conflict) return forward(std::move(conflict));
    }
    auto done = wire->call(XS_TRANSACTION_END, id, path_payload("T"));
    if (!done && done.error().kind() == ErrorKind::kDisconnected) return forward(std::move(done));
    how.operations->fetch_add(how.size + 2, std::memory_order_relaxed);
  }
}

// Transactions as big as a guest's quota allows, as many at once as it may have, all of them in conflict: one
// is committed, then its nodes are removed, the others fail or are aborted.
Status giant_transactions(const Hostility& how) {
  constexpr int kAtOnce = 10;
  Result<Wire> wire = Wire::connect(how.socket);
  if (!wire) return forward(std::move(wire));
  how.ready();
  for (;;) {
    std::vector<std::uint32_t> open;
    for (int i = 0; i < kAtOnce; ++i) {
      auto started = wire->call(XS_TRANSACTION_START, 0, path_payload(""));
      if (!started) return forward(std::move(started));
      open.push_back(static_cast<std::uint32_t>(std::stoul(*started)));
    }
    auto written = all(*wire, how.size * open.size(), true, [&](Wire& to, std::uint64_t i) {
      to.queue(XS_WRITE, open[i % open.size()],
               write_payload(place("/giant/" + std::to_string(i / open.size())), std::to_string(i)));
    });
    if (!written) return written;
    for (std::size_t i = 0; i < open.size(); ++i) {
      auto done = wire->call(XS_TRANSACTION_END, open[i], path_payload(i % 3 == 2 ? "F" : "T"));
      if (!done && done.error().kind() == ErrorKind::kDisconnected) return forward(std::move(done));
    }
    // Not there if none was committed.
    auto removed = wire->call(XS_RM, 0, path_payload(place("/giant")));
    if (!removed && removed.error().kind() == ErrorKind::kDisconnected) return forward(std::move(removed));
    how.operations->fetch_add((how.size + 2) * open.size() + 1, std::memory_order_relaxed);
  }
}

// Never reads, has watches and asks for more; another one fires them. Comes back when it is cut off.
Status never_reads(const Hostility& how) {
  Result<Wire> writer = Wire::connect(how.socket);
  if (!writer) return forward(std::move(writer));
  const std::string path = place("/unread");
  std::unique_ptr<Wire> deaf;
  how.ready();
  const std::string payload = write_payload(path, "value");
  return pump(how, *writer, [&](Wire& to) {
    if (!deaf || !deaf->flush()) {
      Result<Wire> again = Wire::connect(how.socket);
      if (!again) return;
      deaf = std::make_unique<Wire>(std::move(*again));
      for (std::uint64_t i = 0; i < how.size; ++i) {
        deaf->queue(XS_WATCH, 0, path_payload(path) + path_payload(std::to_string(i)));
      }
    }
    if (deaf->queued() < kPipeline) deaf->queue(XS_READ, 0, path_payload(path));
    to.queue(XS_WRITE, 0, payload);
  });
}

// Connections that stop in the middle of a message, then send one more byte each, in turn.
Status half_messages(const Hostility& how) {
  const xsd_sockmsg header{XS_WRITE, 1, 0, 2000};
  const std::string_view bytes(reinterpret_cast<const char*>(&header), sizeof header);
  std::vector<Wire> wires;
  std::vector<std::size_t> sent;
  for (std::uint64_t i = 0; i < how.size; ++i) {
    Result<Wire> wire = Wire::connect(how.socket);
    if (!wire) return forward(std::move(wire));
    wire->queue_bytes(bytes.substr(0, 1 + i % 15));
    if (!wire->flush()) return ended();
    wires.push_back(std::move(*wire));
    sent.push_back(1 + i % 15);
  }
  how.ready();
  for (std::size_t i = 0;; i = (i + 1) % wires.size()) {
    const char byte = sent[i] < bytes.size() ? bytes[sent[i]] : 'x';
    ++sent[i];
    wires[i].queue_bytes({&byte, 1});
    // A whole message at last is answered with an error: not a path.
    const bool alive = wires[i].flush() && wires[i].fill();
    Wire::Message message;
    while (wires[i].next(message)) sent[i] = 0;
    if (!alive || sent[i] >= bytes.size() + header.len) {
      Result<Wire> again = Wire::connect(how.socket);
      if (!again) return forward(std::move(again));
      wires[i] = std::move(*again);
      sent[i] = 0;
    }
    how.operations->fetch_add(1, std::memory_order_relaxed);
  }
}

// Connects, asks once, and goes without waiting for the answer.
Status storm(const Hostility& how) {
  how.ready();
  std::vector<Wire> open;
  for (;;) {
    Result<Wire> wire = Wire::connect(how.socket);
    if (!wire) {
      open.clear();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    wire->queue(XS_READ, 0, path_payload("/"));
    (void)wire->flush();
    open.push_back(std::move(*wire));
    if (open.size() >= how.size) open.clear();
    how.operations->fetch_add(1, std::memory_order_relaxed);
  }
}

// Talks to nobody and wants a CPU: what the machine, not the service, does to the quiet client.
Status spin(const Hostility& how) {
  how.ready();
  for (;;) how.operations->fetch_add(1, std::memory_order_relaxed);
}

Status nobody(const Hostility& how) {
  how.ready();
  for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
}

}  // namespace

const std::vector<NeighbourKind>& neighbour_kinds() {
  static const std::vector<NeighbourKind> kinds{
      {"none", "nobody", 0, nobody},
      {"spin", "a program that uses a CPU and talks to nobody", 0, spin},
      {"reads", "a full pipeline of reads", 0, reads},
      {"writes", "a full pipeline of writes", 0, writes},
      {"directory", "reads a directory of SIZE children in parts and changes it, pipelined", 100000,
       directory},
      {"deep", "makes and removes a chain of SIZE nodes, pipelined", 500, deep},
      {"subtree", "makes and removes a subtree of SIZE nodes", 50000, subtree},
      {"watches", "SIZE watches on one node, and writes to it", 1000, watches},
      {"transactions", "transactions of SIZE nodes; every other one conflicts", 2000, transactions},
      {"giant-transactions", "ten transactions of SIZE nodes at once, committed, aborted, in conflict", 1000,
       giant_transactions},
      {"never-reads", "SIZE watches that fire all the time; their owner never reads", 100, never_reads},
      {"half", "SIZE connections that stop in the middle of a message", 200, half_messages},
      {"storm", "connects and goes, SIZE at a time", 50, storm},
  };
  return kinds;
}

}  // namespace bulkhead::bench
