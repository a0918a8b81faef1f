#include "runtime/calibration_texts.h"

#include <array>

#include "runtime/calibration_text.h"

namespace dogstar {
namespace {

constexpr std::string_view kHarbour =
    R"(The ferry to the outer islands left at six, and by half past five the quay was already loud with crates. Marta stood beside her bicycle and counted the parcels again: seven for the school, two for the clinic, and one long tube of charts that nobody had signed for. The harbour master, a narrow man with a pipe he never lit, walked along the line and read every label aloud as if it were a letter addressed to him.

"These charts," he said, "are for the lighthouse at Sorrel Point. There has been no keeper at Sorrel Point since the lamp was made automatic."

"Somebody ordered them," said Marta.

"Somebody always does." He tapped the tube against his boot. "Take it across, then. If no one comes for it, bring it back on Thursday, and I will write that down too."

The crossing took two hours. A school of porpoises followed the bow as far as the second buoy, and then the fog came down and there was nothing to look at but the wet rail and the brass bell. Marta sat on the mailbags and tried to remember the last time she had seen a light at Sorrel Point. Her grandfather used to say that a lamp without a keeper still keeps somebody: the person who watches for it from the other side.

When the engine slowed she heard voices on the pier, and one of them, an old woman's, was asking the deckhand whether the charts had come at last.)";

constexpr std::string_view kBread =
    R"(How bread rises

Flour and water make a dough, but it is yeast that makes it light. Yeast is a living thing, a fungus of a single cell, and it feeds on the sugars in flour. As it feeds it gives off carbon dioxide and a little alcohol. The gas gathers in bubbles, and the bubbles would simply escape if the dough were not elastic. Kneading links two proteins in wheat, glutenin and gliadin, into a net called gluten. The net stretches around each bubble and holds it.

Temperature decides how fast all this happens. At four degrees the yeast is nearly asleep, and a dough left overnight in the refrigerator rises slowly and gains flavour. At thirty degrees it works quickly. Above fifty it dies. In the oven three things follow each other: the gas expands and the loaf springs up, the starch swells and sets at about seventy degrees, and finally the crust dries and browns because sugars react with proteins.

Steps for a plain loaf:
1. Mix 500 g of flour, 350 g of water, 10 g of salt and 5 g of dry yeast.
2. Knead for ten minutes, until the dough can be stretched so thin that light shows through it.
3. Let it rise, covered, until it has doubled: about ninety minutes in a warm kitchen.
4. Shape it, let it rise again for forty minutes, and cut the top with a sharp knife.
5. Bake at 230 degrees for thirty-five minutes. Tap the bottom: a finished loaf sounds hollow.

If the loaf is dense, the dough was too cold, too dry, or not given enough time. If it spreads sideways, it was too wet or had risen too long.)";

constexpr std::string_view kCode =
    R"code(#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>

// Counts words and returns the most frequent ones first; equal counts are sorted by name.
std::vector<std::pair<std::string, int>> MostFrequent(const std::vector<std::string>& words, size_t limit) {
  std::unordered_map<std::string, int> counts;
  for (const std::string& word : words) ++counts[word];
  std::vector<std::pair<std::string, int>> result(counts.begin(), counts.end());
  std::sort(result.begin(), result.end(), [](const auto& a, const auto& b) {
    if (a.second != b.second) return a.second > b.second;
    return a.first < b.first;
  });
  if (result.size() > limit) result.resize(limit);
  return result;
}

class Stack:
    """A stack of limited size. Pushing onto a full stack raises OverflowError."""

    def __init__(self, limit):
        if limit <= 0:
            raise ValueError("limit must be positive")
        self.limit = limit
        self.items = []

    def push(self, item):
        if len(self.items) == self.limit:
            raise OverflowError(f"the stack holds only {self.limit} items")
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("pop from an empty stack")
        return self.items.pop()

def is_balanced(text):
    """Return True if every bracket in `text` is closed by one of its own kind, in order."""
    pairs = {")": "(", "]": "[", "}": "{"}
    open_brackets = []
    for character in text:
        if character in pairs.values():
            open_brackets.append(character)
        elif character in pairs:
            if not open_brackets or open_brackets.pop() != pairs[character]:
                return False
    return not open_brackets

SELECT customers.name, COUNT(orders.id) AS order_count, SUM(orders.total) AS spent
FROM customers LEFT JOIN orders ON orders.customer_id = customers.id
WHERE customers.created_at >= '2024-01-01'
GROUP BY customers.name HAVING COUNT(orders.id) > 3 ORDER BY spent DESC LIMIT 10;)code";

constexpr std::string_view kSums =
    R"(Question: A train leaves at 8:15 and travels 180 kilometres at an average speed of 72 kilometres per hour. When does it arrive?
Answer: The trip takes 180 / 72 = 2.5 hours, which is 2 hours and 30 minutes. 8:15 plus 2:30 is 10:45. The train arrives at 10:45.

Question: Tom saves 15 dollars a week. He already has 40 dollars and wants a bicycle for 265 dollars. How many weeks must he save?
Answer: He needs 265 - 40 = 225 more dollars. 225 / 15 = 15, so he must save for 15 weeks.

Question: A rectangle is three times as long as it is wide. Its perimeter is 64 metres. What is its area?
Answer: Let the width be w. The length is 3w and the perimeter is 2 * (w + 3w) = 8w = 64, so w = 8 and the length is 24. The area is 8 * 24 = 192 square metres.

Question: In a class of 30 students, 60% play a sport and half of those also play an instrument. How many students play both?
Answer: 60% of 30 is 18. Half of 18 is 9. So 9 students play both.

Question: A baker sells rolls for $0.40 each and loaves for $3.50 each. On Monday she sold 120 rolls and 26 loaves, and flour cost her $45. How much did she earn after paying for flour?
Answer: Rolls brought 120 * 0.40 = 48 dollars. Loaves brought 26 * 3.50 = 91 dollars. Together that is 139 dollars. After flour she has 139 - 45 = 94 dollars left.

Question: The sum of three consecutive numbers is 84. What are they?
Answer: If the middle number is n, the sum is 3n = 84, so n = 28. The numbers are 27, 28 and 29.)";

constexpr std::string_view kTalk =
    R"(User: I have an interview for a job in a library next week and I'm nervous. What should I prepare?
Assistant: Congratulations on getting the interview! Three things help most. First, read about the library: its size, its programmes, and anything it has changed lately. Second, prepare two or three short stories from your own experience, such as helping a difficult customer, organising something, or learning a new system. Third, write down questions of your own, for example how the team is organised and what a normal day looks like.

User: They might ask why I left my last job. I didn't get along with my manager.
Assistant: Be honest but brief, and look forward. You could say: "I learned a lot there, but the way of working was not a good match for me, and I am looking for a place where I can work closely with people and books." Avoid criticising anyone. If they ask further, name one thing you would do differently today.

User: That's good. Should I wear a suit?
Assistant: Probably not. Neat, comfortable clothes that you would wear on a good day at work are fine. If you are unsure, walk past the library beforehand and see how people dress.

User: Can you give me a one-line summary I can remember?
Assistant: Know the place, bring two stories, ask two questions, and speak kindly about everyone.)";

constexpr std::string_view kRiver =
    R"(A river is never the same width twice. In its upper course it cuts downward, because the slope is steep and the water carries stones that grind the bed. Valleys there are narrow and shaped like the letter V. Further down the slope is gentle, and the river begins to swing from side to side. On the outside of each bend the current is fast and eats into the bank; on the inside it is slow and drops sand. So the bends move, year by year, and now and then the river breaks through the neck of a loop and leaves a curved lake behind.

Near the sea the water slows still more. What it carried for hundreds of kilometres settles in layers, the coarse grains first and the fine mud last. If the tide is weak, the mud builds outward into a delta with many small arms. The Nile, the Danube and the Mississippi all end in this way. If the tide is strong, it scours the mouth clean, and the river ends in a wide estuary like that of the Thames or the Elbe.

People have always lived beside rivers, for water, for food and for transport, and have always had to live with floods. A flood plain is fertile because it is flooded. Dikes protect the fields, but they also raise the level of the water between them, and the land behind them no longer receives new soil. Many countries now give some of the plain back: dikes are moved away from the bank, and meadows are allowed to fill when the river is high.)";

constexpr std::string_view kLetter =
    R"(Dear Ms. Okafor,

Thank you for your order of 14 March. I am writing because one of the items, the oak bookshelf in the size 180 x 90 cm, is out of stock and will not be delivered to our warehouse before the middle of April. We can offer you three solutions:

- You wait for the bookshelf, and we send the other items now without an extra charge.
- You choose the same model in ash, which is available at once and costs 20 euros less.
- You cancel the bookshelf, and we return the full amount of 249 euros within five working days.

Please let us know by Friday which of these you prefer. I apologise for the delay and for any trouble it causes you.

Kind regards,
Jonas Lindqvist
Customer service

Minutes of the meeting of the garden association, 3 May
Present: eleven members. The treasurer reported a balance of 1,482.50 euros. It was decided to repair the pump before the summer (estimate: 310 euros), to plant two apple trees beside the gate, and to ask the town for a second key. A proposal to forbid radios after eight in the evening was discussed at length and put off until the next meeting. Mr. Brandt offered to lend his ladder. The next meeting is on 7 June at six o'clock.)";

constexpr std::string_view kStars =
    R"(Sirius, the Dog Star, is the brightest star of the night sky. It is not especially large; it shines so brightly because it is near, only 8.6 light years away. Around it moves a companion, Sirius B, a white dwarf: the core of a star that used up its fuel long ago. Sirius B has about as much mass as the Sun in a body no bigger than the Earth, so that a teaspoon of it would weigh several tonnes.

The ancient Egyptians watched for the day in summer when Sirius first rose shortly before the Sun, because the flood of the Nile followed soon after. The Greeks blamed it for the heat of late July and August, and the Romans named these weeks the dog days.

Why do stars twinkle while planets hardly do? A star is so far away that its light reaches us as a single thin ray. Warm and cold air bend that ray this way and that, and it seems to flicker. A planet is a small disc; the rays from its parts flicker out of step, and the sum stays almost steady. Astronauts above the air see no twinkling at all.

To find Sirius in winter, look for the three stars of Orion's belt and follow the line they make down to the left, if you are in the northern half of the world. In the southern half the same line leads up and to the right.)";

constexpr std::string_view kLists =
    R"(Three ways to learn a language faster:
1. Speak from the first day, even if you only know twenty words. Mistakes show you what to learn next.
2. Learn whole phrases rather than single words: "Could you tell me where ..." is more useful than "where".
3. Repeat at growing intervals: after an hour, a day, three days, a week.

Translate into French: "The weather is nice today, but it will rain tomorrow."
Il fait beau aujourd'hui, mais il pleuvra demain.

Translate into German: "She has lived in this town for ten years."
Sie wohnt seit zehn Jahren in dieser Stadt.

Traduce al español: "We would like a table for four, please."
Quisiéramos una mesa para cuatro, por favor.

Give the opposite of each word: hot - cold; early - late; generous - mean; expand - shrink; ancient - modern; transparent - opaque.

Put the events in order: the invention of printing with movable type in Europe (about 1450), the first journey of Columbus (1492), the French Revolution (1789), the first flight of the Wright brothers (1903), the first landing on the Moon (1969).

{"name": "Aurora", "type": "sailing boat", "length_m": 11.4, "built": 1987, "crew": ["Ines", "Pavel", "Yuki"], "insured": true}

Haiku:
Rain on the tin roof,
the cat turns around three times
and sleeps through the noise.)";

constexpr std::array kTexts = {kCalibrationText, kHarbour, kBread, kCode, kSums, kTalk,
                               kRiver,           kLetter,  kStars, kLists};

}  // namespace

std::span<const std::string_view> CalibrationTexts() { return kTexts; }

}  // namespace dogstar
