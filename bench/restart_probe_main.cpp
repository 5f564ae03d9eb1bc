// restart-probe: kills the tiny server again and again and takes the time until a client gets its next right
// answer.
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "tests/support/xs_client.h"

namespace bulkhead {
namespace {

constexpr timeval kAnswerTimeout{2, 0};
constexpr int64_t kGiveUpNs = int64_t{30} * 1000000000;

struct Answer {
  bool right = false;
  pid_t server = -1;
};

// Connects, asks once. The listener's creator is the server: SO_PEERCRED names it.
Answer ask(const char* socket_path) {
  const Result<UniqueFd> fd = xs::XsClient::connect(socket_path);
  if (!fd) return {};
  ::setsockopt(fd->get(), SOL_SOCKET, SO_RCVTIMEO, &kAnswerTimeout, sizeof kAnswerTimeout);
  ucred peer{};
  socklen_t length = sizeof peer;
  if (::getsockopt(fd->get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return {};
  char byte = 'x';
  if (::send(fd->get(), &byte, 1, MSG_NOSIGNAL) != 1) return {};
  byte = 0;
  return {::recv(fd->get(), &byte, 1, 0) == 1 && byte == 'x', peer.pid};
}

// A client in a tight loop; the server that answers must not be `dead`.
Answer wait_for_answer(const char* socket_path, pid_t dead, int64_t give_up_ns) {
  while (xs::monotonic_ns() < give_up_ns) {
    const Answer answer = ask(socket_path);
    if (answer.right && answer.server != dead) return answer;
  }
  return {};
}

int measure(const char* socket_path, int kills, int uptime_ms) {
  Answer last = wait_for_answer(socket_path, -1, xs::monotonic_ns() + kGiveUpNs);
  std::vector<double> outages_us;
  for (int i = 0; i < kills && last.right; ++i) {
    // Supervisors hold back the restart of a server that lived less than a second: give them none of that.
    std::this_thread::sleep_for(std::chrono::milliseconds(uptime_ms));
    const int64_t begin = xs::monotonic_ns();
    ::kill(last.server, SIGKILL);
    last = wait_for_answer(socket_path, last.server, begin + kGiveUpNs);
    outages_us.push_back(static_cast<double>(xs::monotonic_ns() - begin) / 1e3);
  }
  if (!last.right) {
    std::fprintf(stderr, "restart-probe: %s: no answer\n", socket_path);
    return 1;
  }
  std::sort(outages_us.begin(), outages_us.end());
  const char* comma = "[";
  for (const double outage : outages_us) {
    std::printf("%s%.1f", comma, outage);
    comma = ", ";
  }
  std::puts("]");
  return 0;
}

}  // namespace
}  // namespace bulkhead

int main(int argc, char** argv) {
  int kills = 0;
  int uptime_ms = 0;
  const auto number = [](const char* text, int& value) {
    return std::from_chars(text, text + std::strlen(text), value).ec == std::errc{} && value > 0;
  };
  if (argc != 4 || !number(argv[2], kills) || !number(argv[3], uptime_ms)) {
    std::fputs(
        "usage: restart-probe SOCKET KILLS UPTIME_MS\nPrints the outages in microseconds, ascending.\n",
        stderr);
    return 2;
  }
  return bulkhead::measure(argv[1], kills, uptime_ms);
}
