#include "monitors/request_probe.h"

#include <algorithm>
#include <array>

#include "monitors/xenstore_probe.h"

namespace bulkhead::monitors {

namespace {

struct Protocol {
  std::string_view name;
  std::unique_ptr<Probe> (*make)(const std::string& socket_path, std::uint64_t token);
};
constexpr std::array<Protocol, 1> kProtocols = {{{"xenstore", make_xenstore_probe}}};

}  // namespace

Result<std::unique_ptr<Probe>> make_request_probe(std::string_view protocol, const std::string& socket_path,
                                                  std::uint64_t token) {
  const auto found = std::find_if(kProtocols.begin(), kProtocols.end(),
                                  [&](const Protocol& each) { return each.name == protocol; });
  if (found == kProtocols.end())
    return failure(ErrorKind::kNotFound, "there is no probe protocol \"" + std::string(protocol) + "\"");
  return found->make(socket_path, token);
}

std::vector<std::string_view> request_protocols() {
  std::vector<std::string_view> names;
  names.reserve(kProtocols.size());
  for (const auto& protocol : kProtocols) names.push_back(protocol.name);
  return names;
}

}  // namespace bulkhead::monitors
