// What the programs share: their arguments, export.json, and the line that is printed.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iterator>
#include <numeric>
#include <string>
#include <vector>

#include "json.h"
#include "picture.h"

// A graph that is loaded: float32 [1, 3, H, W], normalised -> logits [K].
using Run = std::function<std::vector<float>(std::vector<float>& input, int height, int width)>;
// Loads the graph of an export's folder.
using Load = std::function<Run(const std::string& folder)>;

inline Json read_export(const std::string& folder, const std::string& format) {
  std::ifstream file(folder + "/export.json", std::ios::binary);
  if (!file) throw std::runtime_error(folder + ": no export.json; expected a folder that "
                                               "paddle-vitae export wrote");
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  Json facts = JsonReader(text).read();
  const std::string got = facts.at("format", 's').text;
  if (got != format)
    throw std::runtime_error(folder + ": got an export to " + got + ", expected one to " + format);
  return facts;
}

// Logits to probabilities: a softmax, or a sigmoid of each where a picture may have several labels.
inline std::vector<double> probabilities(const std::vector<float>& logits, bool multi_label) {
  std::vector<double> result;
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (double logit : logits) {
    result.push_back(multi_label ? 1 / (1 + std::exp(-logit)) : std::exp(logit - largest));
    sum += result.back();
  }
  if (!multi_label)
    for (double& value : result) value /= sum;
  return result;
}

inline void print_classes(const std::string& path, const std::vector<float>& logits,
                          const Json& facts) {
  const auto labels = facts.fields.find("multi_label");
  const auto scores = probabilities(logits, labels != facts.fields.end() && labels->second.number);
  std::vector<int> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return scores[a] > scores[b]; });
  const auto names = facts.fields.find("class_names");
  std::printf("%s", path.c_str());
  for (size_t i = 0; i < std::min<size_t>(order.size(), 5); ++i) {
    const int label = order[i];
    const bool named = names != facts.fields.end() && names->second.kind == 'a';
    std::printf("  %s: %.1f%%",
                named ? names->second.items.at(label).text.c_str() : std::to_string(label).c_str(),
                100 * scores[label]);
  }
  std::printf("\n");
}

// main of a program: classify FOLDER PICTURE.ppm ... [-logits]
inline int classify(int argc, char** argv, const std::string& format, const Load& load) try {
  std::vector<std::string> words(argv + 1, argv + argc);
  const bool only_logits = !words.empty() && words.back() == "-logits";
  if (only_logits) words.pop_back();
  if (words.size() < 2) {
    std::fprintf(stderr, "usage: %s FOLDER PICTURE.ppm ... [-logits]\n", argv[0]);
    return 2;
  }
  const Json facts = read_export(words[0], format);
  const Json& how = facts.at("preprocessing", 'o');
  const auto& size = how.at("image_size", 'a').items;
  const Run run = load(words[0]);
  for (size_t i = 1; i < words.size(); ++i) {
    std::vector<float> input = model_input(read_ppm(words[i]), how);  // [3, H, W]
    const auto logits = run(input, int(size.at(0).number), int(size.at(1).number));
    if (double(logits.size()) != facts.at("num_classes", 'd').number)
      throw std::runtime_error(words[0] + ": the graph gives another number of logits");
    if (!only_logits) {
      print_classes(words[i], logits, facts);
      continue;
    }
    for (size_t k = 0; k < logits.size(); ++k) std::printf(k ? " %.9g" : "%.9g", logits[k]);
    std::printf("\n");
  }
  return 0;
} catch (const std::exception& error) {
  const std::string text = error.what();
  std::fprintf(stderr, "error: %s\n", text.substr(0, text.find('\n')).c_str());
  return 1;
}
