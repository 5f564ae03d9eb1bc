// bulkhead: the operator's command. Parses, connects, runs one command, and turns its outcome into an exit
// code.

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <exception>
#include <set>

#include "bulkhead/v1/bulkhead.pb.h"
#include "cli/commands.h"
#include "cli/completion.h"
#include "cli/units.h"

namespace bulkhead::cli {
namespace {

constexpr std::chrono::milliseconds kCompletionPatience(1000);

ColourChoice colour_choice(const std::string& word) {
  if (word == "always") return ColourChoice::kAlways;
  return word == "never" ? ColourChoice::kNever : ColourChoice::kAuto;
}

int report(const Failure& failure) {
  complain(printable(failure.message));
  return static_cast<int>(failure.code);
}

// The socket that the words before the cursor name, or else the usual one.
std::string socket_in(const std::vector<std::string>& words) {
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == "--socket") return words[i + 1];
    if (words[i].starts_with("--socket=")) return words[i].substr(9);
  }
  const char* set = std::getenv("BULKHEAD_SOCKET");
  return set == nullptr ? kDefaultSocket : set;
}

int run_completion(CLI::App& tree, const std::vector<std::string>& words) {
  const Client client(socket_in(words), kCompletionPatience);
  const DynamicNames names{[&] {
                             v1::ListComponentsResponse list;
                             std::vector<std::string> found;
                             if (!client.query(v1::ListComponentsRequest(), list)) return found;
                             for (const v1::Component& component : list.components())
                               found.push_back(component.name());
                             return found;
                           },
                           [&](const std::string& component) {
                             v1::ListFaultsRequest request;
                             request.set_component(component);
                             v1::ListFaultsResponse list;
                             std::set<std::string> found;
                             if (client.query(request, list)) {
                               for (const v1::FaultKind& kind : list.kinds()) found.insert(kind.kind());
                             }
                             return std::vector<std::string>(found.begin(), found.end());
                           }};
  Output output;
  for (const Candidate& candidate : complete(tree, words, names)) {
    output.write(printable(candidate.word) + "\t" + printable(candidate.description) + "\n");
  }
  return 0;
}

int run(int argc, char** argv) {
  guard_standard_streams();
  ::setenv("GRPC_VERBOSITY", "NONE", 0);  // failures are told in our own words
  CLI::App tree("Watches over and operates the Bulkhead supervisor", "bulkhead");
  Invocation invocation;
  add_commands(tree, invocation);
  if (argc > 1 && std::string_view(argv[1]) == "__complete")
    return run_completion(tree, {argv + 2, argv + argc});
  try {
    tree.parse(argc, argv);
  } catch (const CLI::Success& asked) {
    return tree.exit(asked);  // help or version
  } catch (const CLI::Error& error) {
    return report({ExitCode::kUsage, std::string(error.what()) + " (see bulkhead --help)"});
  }
  std::optional<std::chrono::milliseconds> timeout;
  if (!invocation.timeout.empty()) timeout = parse_duration(invocation.timeout);
  const Client client(invocation.socket, timeout);
  Output output;
  Session session{tree, client, output, standard_layout(colour_choice(invocation.colour)),
                  invocation.output == "json"};
  Outcome<void> outcome = invocation.action(session);
  if (outcome) outcome = output.finish();
  return outcome ? static_cast<int>(ExitCode::kOk) : report(outcome.error());
}

}  // namespace
}  // namespace bulkhead::cli

int main(int argc, char** argv) {
  try {
    return bulkhead::cli::run(argc, argv);
  } catch (const std::exception& error) {
    bulkhead::cli::complain(error.what());
    return static_cast<int>(bulkhead::cli::ExitCode::kFailed);
  }
}
