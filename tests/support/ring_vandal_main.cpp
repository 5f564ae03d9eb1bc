// ring-vandal: does in dom0, to a real guest's xenstore ring, what a hostile kernel of that guest could do:
// the page is the guest's, and whoever serves it cannot tell who wrote there. For tests/xen.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

extern "C" {
#include <xen/io/xs_wire.h>
}

#include "hypervisor/hypervisor.h"

namespace {

const std::map<std::string, std::size_t> kFields = {
    {"req_cons", offsetof(xenstore_domain_interface, req_cons)},
    {"req_prod", offsetof(xenstore_domain_interface, req_prod)},
    {"rsp_cons", offsetof(xenstore_domain_interface, rsp_cons)},
    {"rsp_prod", offsetof(xenstore_domain_interface, rsp_prod)},
    {"connection", offsetof(xenstore_domain_interface, connection)},
    {"error", offsetof(xenstore_domain_interface, error)},
};

int usage() {
  std::fputs(
      "usage: ring-vandal DOMID show | garbage | FIELD=[+]NUMBER...\n"
      "FIELD: req_cons, req_prod, rsp_cons, rsp_prod, connection, error. garbage: all of the requests' "
      "bytes.\n",
      stderr);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return usage();
  auto xen = bulkhead::hypervisor::open("xen");
  if (!xen) {
    std::fprintf(stderr, "ring-vandal: %s\n", xen.error().message().c_str());
    return 1;
  }
  auto page = (*xen)->map_xenstore_page(static_cast<std::uint32_t>(std::atoi(argv[1])));
  if (!page) {
    std::fprintf(stderr, "ring-vandal: %s\n", page.error().message().c_str());
    return 1;
  }
  const auto word = [&](std::size_t offset) {
    return reinterpret_cast<volatile std::uint32_t*>((*page)->data() + offset);
  };
  for (int i = 2; i < argc; ++i) {
    const std::string what = argv[i];
    if (what == "show") {
      for (const auto& [name, offset] : kFields) std::printf("%s=%u\n", name.c_str(), *word(offset));
    } else if (what == "garbage") {
      std::memset((*page)->data(), 0x5A, XENSTORE_RING_SIZE);
    } else {
      const std::size_t equals = what.find('=');
      const auto field = kFields.find(what.substr(0, equals));
      if (equals == std::string::npos || field == kFields.end()) return usage();
      const bool relative = what[equals + 1] == '+';
      const auto number = static_cast<std::uint32_t>(std::strtoul(what.c_str() + equals + 1, nullptr, 0));
      *word(field->second) = relative ? *word(field->second) + number : number;
    }
  }
  return 0;
}
