// A reader of JSON, for export.json: objects, arrays, strings, numbers, true, false, null.
#pragma once
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

struct Json {
  char kind = 'n';  // n(ull), b(ool), d(ouble), s(tring), a(rray), o(bject)
  double number = 0;
  std::string text;
  std::vector<Json> items;
  std::map<std::string, Json> fields;

  // The value of a key of the kind that is expected; throws where it is missing or another one.
  const Json& at(const std::string& key, char expected) const {
    const auto found = fields.find(key);
    if (found == fields.end() || found->second.kind != expected)
      throw std::runtime_error("export.json: " + key + ": missing, or not what an export writes");
    return found->second;
  }
};

class JsonReader {
 public:
  explicit JsonReader(const std::string& text) : text_(text) {}

  Json read() {
    Json value = read_value(0);
    skip_space();
    if (at_ != text_.size()) fail();
    return value;
  }

 private:
  static constexpr int kMaxDepth = 64;
  const std::string& text_;
  size_t at_ = 0;

  [[noreturn]] void fail() const {
    throw std::runtime_error("export.json: not JSON at byte " + std::to_string(at_));
  }

  void skip_space() {
    while (at_ < text_.size() && std::string(" \t\r\n").find(text_[at_]) != std::string::npos)
      ++at_;
  }

  // Whether a word or a sign comes next; if so, it is passed over.
  bool next_is(const std::string& word) {
    skip_space();
    if (text_.compare(at_, word.size(), word) != 0) return false;
    at_ += word.size();
    return true;
  }

  Json read_value(int depth) {
    if (depth > kMaxDepth) fail();
    Json value;
    if (next_is("{")) {
      value.kind = 'o';
      if (next_is("}")) return value;
      do {
        const std::string key = read_string();
        if (!next_is(":")) fail();
        value.fields[key] = read_value(depth + 1);
      } while (next_is(","));
      if (!next_is("}")) fail();
    } else if (next_is("[")) {
      value.kind = 'a';
      if (next_is("]")) return value;
      do value.items.push_back(read_value(depth + 1));
      while (next_is(","));
      if (!next_is("]")) fail();
    } else if (at_ < text_.size() && text_[at_] == '"') {
      value.kind = 's';
      value.text = read_string();
    } else if (next_is("true") || next_is("false")) {
      value.kind = 'b';
      value.number = text_[at_ - 2] == 'u';  // tr(u)e, fal(s)e
    } else if (!next_is("null")) {
      value.kind = 'd';
      char* end = nullptr;
      value.number = std::strtod(text_.c_str() + at_, &end);
      if (end == text_.c_str() + at_) fail();
      at_ = end - text_.c_str();
    }
    return value;
  }

  std::string read_string() {
    if (!next_is("\"")) fail();
    std::string result;
    while (at_ < text_.size() && text_[at_] != '"') {
      if (text_[at_] != '\\') {
        result += text_[at_++];
        continue;
      }
      const char sign = ++at_ < text_.size() ? text_[at_++] : '\0';
      const std::string signs = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
      if (sign == 'u') {
        unsigned code = read_hex();
        if (code >= 0xd800 && code < 0xdc00 && text_.compare(at_, 2, "\\u") == 0) {
          at_ += 2;  // the other half of a sign beyond 16 bits
          code = 0x10000 + ((code - 0xd800) << 10) + (read_hex() - 0xdc00);
        }
        append_utf8(result, code);
      } else if (sign != '\0' && signs.find(sign) != std::string::npos) {
        result += meant[signs.find(sign)];
      } else {
        fail();
      }
    }
    if (at_ == text_.size()) fail();
    ++at_;
    return result;
  }

  unsigned read_hex() {
    const std::string digits = text_.substr(at_, 4);
    if (digits.size() < 4 || digits.find_first_not_of("0123456789abcdefABCDEF") != digits.npos)
      fail();
    at_ += 4;
    return static_cast<unsigned>(std::stoul(digits, nullptr, 16));
  }

  static void append_utf8(std::string& text, unsigned code) {
    if (code < 0x80) {
      text += static_cast<char>(code);
      return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;  // bytes after the first
    const unsigned mark = more == 1 ? 0xc0 : more == 2 ? 0xe0 : 0xf0;
    text += static_cast<char>(mark | (code >> (6 * more)));
    for (int i = more - 1; i >= 0; --i) text += static_cast<char>(0x80 | ((code >> (6 * i)) & 0x3f));
  }
};
