// Accounts for launch(): names to numbers.
#include <grp.h>
#include <pwd.h>

#include <cerrno>
#include <functional>
#include <optional>

#include "supervisor/launch.h"

namespace bulkhead::supervisor {

namespace {

struct Wanted {
  std::string name;
  bool optional;
};

Wanted parse(const std::string& text) {
  const bool optional = text.starts_with('-');
  return {optional ? text.substr(1) : text, optional};
}

// Calls one of the *_r look-ups with a buffer that grows. Unset: there is no such entry.
template <typename Entry, typename LookUp>
Result<std::optional<Entry>> look_up(LookUp call, std::vector<char>& buffer, const std::string& what) {
  constexpr std::size_t kMost = std::size_t{1} << 20;
  buffer.resize(4096);
  for (;;) {
    Entry entry{};
    Entry* found = nullptr;
    const int error = call(&entry, buffer.data(), buffer.size(), &found);
    if (error == ERANGE && buffer.size() < kMost) {
      buffer.resize(buffer.size() * 2);
      continue;
    }
    if (found != nullptr) return entry;
    if (error == 0 || error == ENOENT || error == ESRCH || error == EBADF || error == EPERM)
      return std::nullopt;
    return os_failure("cannot look up " + what, error);
  }
}

Result<std::optional<passwd>> find_user(const std::string& name, std::vector<char>& buffer) {
  return look_up<passwd>([&](passwd* entry, char* data, std::size_t size,
                             passwd** found) { return ::getpwnam_r(name.c_str(), entry, data, size, found); },
                         buffer, "user " + name);
}

Result<std::optional<gid_t>> find_group(const std::string& name) {
  std::vector<char> buffer;
  auto entry =
      look_up<group>([&](group* into, char* data, std::size_t size,
                         group** found) { return ::getgrnam_r(name.c_str(), into, data, size, found); },
                     buffer, "group " + name);
  if (!entry) return forward(std::move(entry));
  if (!*entry) return std::nullopt;
  return (*entry)->gr_gid;
}

std::vector<gid_t> supplementary_groups(const std::string& user, gid_t primary) {
  std::vector<gid_t> groups(64);
  int count = static_cast<int>(groups.size());
  if (::getgrouplist(user.c_str(), primary, groups.data(), &count) < 0) {
    groups.resize(static_cast<std::size_t>(count));
    ::getgrouplist(user.c_str(), primary, groups.data(), &count);
  }
  groups.resize(static_cast<std::size_t>(count));
  return groups;
}

std::vector<gid_t> own_groups() {
  std::vector<gid_t> groups(static_cast<std::size_t>(std::max(::getgroups(0, nullptr), 0)));
  const int count = ::getgroups(static_cast<int>(groups.size()), groups.data());
  groups.resize(static_cast<std::size_t>(std::max(count, 0)));
  return groups;
}

}  // namespace

Result<gid_t> resolve_group(const std::string& group) {
  const Wanted wanted = parse(group);
  auto found = find_group(wanted.name);
  if (!found) return forward(std::move(found));
  if (*found) return **found;
  if (wanted.optional) return ::getegid();
  return failure(ErrorKind::kNotFound, "there is no group " + wanted.name);
}

Result<Account> resolve_account(const std::string& user, const std::string& group) {
  const Wanted wanted = parse(user);
  std::vector<char> buffer;
  auto found = find_user(wanted.name, buffer);
  if (!found) return forward(std::move(found));
  if (!*found) {
    if (!wanted.optional) return failure(ErrorKind::kNotFound, "there is no user " + wanted.name);
    return Account{::geteuid(), ::getegid(), own_groups(), "the core's own user",
                   "runs as the core's own user: there is no user " + wanted.name};
  }
  Account account{(*found)->pw_uid, (*found)->pw_gid, {}, wanted.name, {}};
  if (!group.empty()) {
    const Wanted wanted_group = parse(group);
    auto gid = find_group(wanted_group.name);
    if (!gid) return forward(std::move(gid));
    if (!*gid && !wanted_group.optional)
      return failure(ErrorKind::kNotFound, "there is no group " + wanted_group.name);
    if (*gid) account.gid = **gid;
  }
  account.groups = supplementary_groups(wanted.name, account.gid);
  return account;
}

}  // namespace bulkhead::supervisor
