//! Makes a system-call filter shorter: the kernel translates it anew for each cell, which is the largest part of its
//! start that is ours.
//!
//! Promises: every question gets the same answer; a program that is not fully understood, or would not get shorter, is
//! left as it is. Refuses to know anything about calls: it sees words, comparisons and answers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use seccompiler::{BpfProgram, sock_filter};

/// linux/bpf_common.h: load a word of seccomp_data, keep some of its bits, jump, compare with a constant (unsigned),
/// answer.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const AT_LEAST: u16 = 0x35;
const ANY_BIT: u16 = 0x45;
const ANSWER: u16 = 0x06;
/// Where seccomp_data has the processor: linux/seccomp.h.
const PROCESSOR: Word = Word { at: 4, mask: u32::MAX };
/// Furthest that a comparison can jump, less one for a step that may come between.
const REACH: usize = 254;
/// More ways through a program than that are not followed; our profiles have a thousand.
const WAYS_MAX: usize = 100_000;

/// Some bits of one word of seccomp_data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Word {
    at: u32,
    mask: u32,
}

/// What the comparisons so far say of a word.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Known {
    low: u32,
    high: u32,
    /// Values between these that it does not have.
    not: BTreeSet<u32>,
}

type Facts = BTreeMap<Word, Known>;

/// A program without its places: equal parts are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Node {
    Answer(u32),
    Test { word: Word, code: u16, k: u32, yes: usize, no: usize },
}

/// The same program with as few instructions as can be found.
pub(crate) fn shrink(program: BpfProgram) -> BpfProgram {
    let shorter = Graph::of(&program).and_then(|(graph, root)| graph.write(root));
    shorter.filter(|shorter| shorter.len() < program.len()).unwrap_or(program)
}

impl Known {
    fn nothing(word: Word) -> Self {
        Self { low: 0, high: word.mask, not: BTreeSet::new() }
    }

    /// What is known after a comparison, if it can have this result at all.
    fn after(&self, code: u16, k: u32, yes: bool) -> Option<Self> {
        let mut next = self.clone();
        match (code, yes) {
            (EQUAL, true) => {
                next.low = next.low.max(k);
                next.high = next.high.min(k);
            }
            (EQUAL, false) => {
                next.not.insert(k);
            }
            (GREATER, true) => next.low = next.low.max(k.checked_add(1)?),
            (GREATER, false) => next.high = next.high.min(k),
            (AT_LEAST, true) => next.low = next.low.max(k),
            (AT_LEAST, false) => next.high = next.high.min(k.checked_sub(1)?),
            _ => {}
        }
        loop {
            if next.low > next.high {
                return None;
            }
            if next.not.remove(&next.low) {
                next.low = next.low.checked_add(1)?;
            } else if next.not.remove(&next.high) {
                next.high = next.high.checked_sub(1)?;
            } else {
                break;
            }
        }
        let (low, high) = (next.low, next.high);
        next.not.retain(|value| (low..=high).contains(value));
        Some(next)
    }
}

#[derive(Debug, Default)]
struct Graph {
    nodes: Vec<Node>,
    ids: HashMap<Node, usize>,
    /// What a comparison at this place leads to, with these facts.
    ways: HashMap<(usize, Word, Facts), usize>,
}

impl Graph {
    fn of(program: &[sock_filter]) -> Option<(Self, usize)> {
        let mut graph = Self::default();
        let root = match graph.by_processor(program) {
            Some(root) => root,
            None => graph.follow(program, 0, None, &Facts::new())?,
        };
        Some((graph, root))
    }

    /// The processor first, where all but one get one answer, so that it is compared once.
    fn by_processor(&mut self, program: &[sock_filter]) -> Option<usize> {
        let loads = |step: &sock_filter| (step.code, step.k) == (LOAD, PROCESSOR.at);
        let mut pairs = program.iter().zip(program.iter().skip(1));
        let k = pairs.find(|(first, next)| loads(first) && next.code == EQUAL)?.1.k;
        let mut among = |low: u32, high: u32| {
            let known = Known { low, high, not: BTreeSet::new() };
            self.follow(program, 0, None, &Facts::from([(PROCESSOR, known)]))
        };
        let (yes, below) = (among(k, k)?, among(0, k.checked_sub(1)?)?);
        let above = among(k.checked_add(1)?, u32::MAX)?;
        (below == above).then(|| self.test(PROCESSOR, EQUAL, k, yes, below))
    }

    fn add(&mut self, node: Node) -> usize {
        let new = self.nodes.len();
        let id = *self.ids.entry(node).or_insert(new);
        if id == new {
            self.nodes.push(node);
        }
        id
    }

    fn test(&mut self, word: Word, code: u16, k: u32, yes: usize, no: usize) -> usize {
        if yes == no { yes } else { self.add(Node::Test { word, code, k, yes, no }) }
    }

    /// What the program does from `at` on with this word loaded.
    fn follow(
        &mut self,
        program: &[sock_filter],
        mut at: usize,
        mut word: Option<Word>,
        facts: &Facts,
    ) -> Option<usize> {
        loop {
            let step = program.get(at)?;
            at += 1;
            match step.code {
                LOAD => word = Some(Word { at: step.k, mask: u32::MAX }),
                AND => word = word.map(|word| Word { mask: word.mask & step.k, ..word }),
                JUMP => at += usize::try_from(step.k).ok()?,
                ANSWER => return Some(self.add(Node::Answer(step.k))),
                EQUAL | GREATER | AT_LEAST | ANY_BIT => {
                    return self.compare(program, at, word?, facts);
                }
                _ => return None,
            }
        }
    }

    /// `next` is the place after the comparison.
    fn compare(
        &mut self,
        program: &[sock_filter],
        next: usize,
        word: Word,
        facts: &Facts,
    ) -> Option<usize> {
        let step = program.get(next - 1)?;
        let way = (next, word, facts.clone());
        if let Some(id) = self.ways.get(&way) {
            return Some(*id);
        }
        if self.ways.len() > WAYS_MAX {
            return None;
        }
        let known = facts.get(&word).cloned().unwrap_or_else(|| Known::nothing(word));
        let mut go = |yes: bool, over: u8| {
            known.after(step.code, step.k, yes).map(|known| {
                let mut facts = facts.clone();
                facts.insert(word, known);
                self.follow(program, next + usize::from(over), Some(word), &facts)
            })
        };
        let id = match (go(true, step.jt), go(false, step.jf)) {
            (Some(yes), Some(no)) => self.test(word, step.code, step.k, yes?, no?),
            (Some(only), None) | (None, Some(only)) => only?,
            (None, None) => return None,
        };
        self.ways.insert(way, id);
        Some(id)
    }

    fn write(&self, root: usize) -> Option<BpfProgram> {
        let mut text =
            Text { graph: self, steps: Vec::new(), places: HashMap::new(), loads: BTreeSet::new() };
        text.find_loads(root, None);
        text.put(root)?;
        text.steps.reverse();
        Some(text.steps)
    }
}

/// A program from its end to its start: jumps only lead forward, so each target is there before its jump.
#[derive(Debug)]
struct Text<'a> {
    graph: &'a Graph,
    steps: Vec<sock_filter>,
    /// Of each node: where it begins, and where it begins for who has loaded its word.
    places: HashMap<usize, (usize, usize)>,
    /// Nodes that somebody comes to with another word.
    loads: BTreeSet<usize>,
}

impl Text<'_> {
    fn find_loads(&mut self, root: usize, loaded: Option<Word>) {
        let (mut todo, mut seen) = (vec![(root, loaded)], BTreeSet::new());
        while let Some((id, loaded)) = todo.pop() {
            let Some(Node::Test { word, yes, no, .. }) = self.graph.nodes.get(id) else { continue };
            if loaded != Some(*word) {
                self.loads.insert(id);
            }
            if seen.insert(id) {
                todo.extend([(*yes, Some(*word)), (*no, Some(*word))]);
            }
        }
    }

    fn step(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> usize {
        self.steps.push(sock_filter { code, jt, jf, k });
        self.steps.len() - 1
    }

    /// How far it is to a step from the one that is written next.
    fn over(&self, to: usize) -> usize {
        self.steps.len() - 1 - to
    }

    fn put(&mut self, id: usize) -> Option<()> {
        if self.places.contains_key(&id) {
            return Some(());
        }
        let place = match *self.graph.nodes.get(id)? {
            Node::Answer(answer) => {
                let at = self.step(ANSWER, 0, 0, answer);
                (at, at)
            }
            Node::Test { word, code, k, yes, no } => {
                self.put(yes)?;
                self.put(no)?;
                let (yes, no) = (self.near(yes, word)?, self.near(no, word)?);
                let jumps = [yes, no].map(|to| u8::try_from(self.over(to)));
                let [Ok(jt), Ok(jf)] = jumps else { return None };
                let loaded = self.step(code, jt, jf, k);
                let mut whole = loaded;
                if self.loads.contains(&id) {
                    if word.mask != u32::MAX {
                        self.step(AND, 0, 0, word.mask);
                    }
                    whole = self.step(LOAD, 0, 0, word.at);
                }
                (whole, loaded)
            }
        };
        self.places.insert(id, place);
        Some(())
    }

    /// A place that leads to a node and that a comparison of `loaded` can reach: an answer is written again, and what is
    /// longer is jumped to.
    fn near(&mut self, id: usize, loaded: Word) -> Option<usize> {
        let (whole, after_load) = *self.places.get(&id)?;
        let node = *self.graph.nodes.get(id)?;
        let has = matches!(node, Node::Test { word, .. } if word == loaded);
        let to = if has { after_load } else { whole };
        if self.over(to) <= REACH {
            return Some(to);
        }
        if let Node::Answer(answer) = node {
            let again = self.step(ANSWER, 0, 0, answer);
            self.places.insert(id, (again, again));
            return Some(again);
        }
        let over = u32::try_from(self.over(to)).ok()?;
        Some(self.step(JUMP, 0, 0, over))
    }
}

/// What the kernel does with a program: seccomp(2), linux/filter.h.
#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::panic, reason = "tests")]
pub(crate) fn answer(program: &[sock_filter], data: &[u32; 16]) -> u32 {
    let (mut at, mut word) = (0, 0);
    loop {
        let step = &program[at];
        at += 1;
        let branch = |yes: bool| usize::from(if yes { step.jt } else { step.jf });
        match step.code {
            LOAD => word = data[step.k as usize / 4],
            AND => word &= step.k,
            JUMP => at += step.k as usize,
            EQUAL => at += branch(word == step.k),
            GREATER => at += branch(word > step.k),
            AT_LEAST => at += branch(word >= step.k),
            ANY_BIT => at += branch(word & step.k != 0),
            ANSWER => return step.k,
            other => panic!("unknown instruction {other:#x}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "tests")]
mod tests {
    use seccompiler::sock_filter;

    use super::{
        AND, ANSWER, ANY_BIT, AT_LEAST, EQUAL, GREATER, JUMP, LOAD, PROCESSOR, answer, shrink,
    };

    fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
        sock_filter { code, jt, jf, k }
    }

    /// Numbers without a pattern, the same in each run: Knuth's MMIX generator.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            usize::try_from(self.0 >> 33).unwrap() % bound
        }

        /// Mostly small, so that programs and questions meet, and sometimes at the ends.
        fn value(&mut self) -> u32 {
            match self.below(12) {
                0 => u32::MAX,
                1 => 0x8000_0000,
                2 => 0xc000_003e,
                _ => u32::try_from(self.below(8)).unwrap(),
            }
        }

        fn data(&mut self) -> [u32; 16] {
            std::array::from_fn(|_| self.value())
        }

        /// Any program that the kernel would take: what is jumped to is there, and the end is an answer.
        fn program(&mut self, len: usize) -> Vec<sock_filter> {
            // A comparison needs something to compare from the start on.
            let mut program = vec![step(LOAD, 0, 0, 4)];
            for at in 1..len {
                let left = (len - at).min(256);
                let near = |random: &mut Self| u8::try_from(random.below(left)).unwrap();
                let (jt, jf, k) = (near(self), near(self), self.value());
                program.push(match self.below(10) {
                    0 | 1 => step(LOAD, 0, 0, u32::try_from(self.below(3) * 4).unwrap()),
                    2 => step(AND, 0, 0, k),
                    3 => step(JUMP, 0, 0, jt.into()),
                    4 => step(GREATER, jt, jf, k),
                    5 => step(AT_LEAST, jt, jf, k),
                    6 => step(ANY_BIT, jt, jf, k),
                    7 => step(ANSWER, 0, 0, k % 4),
                    _ => step(EQUAL, jt, jf, k),
                });
            }
            program.push(step(ANSWER, 0, 0, 9));
            program
        }
    }

    /// BRK-35: whatever the program, and however long its jumps.
    #[test]
    fn no_answer_changes() {
        let (mut random, mut shorter, mut answers) = (Random(1), 0, [0; 10]);
        for round in 0..6000 {
            let len = if round % 20 == 0 { 600 } else { 3 + random.below(40) };
            let program = random.program(len);
            let shrunk = shrink(program.clone());
            assert!(shrunk.len() <= program.len());
            shorter += usize::from(shrunk.len() < program.len());
            for _ in 0..300 {
                let data = random.data();
                let expected = answer(&program, &data);
                assert_eq!(answer(&shrunk, &data), expected, "{program:?} {shrunk:?} {data:?}");
                answers[expected as usize] += 1;
            }
        }
        assert!(shorter > 3000, "{shorter}");
        assert!([0, 1, 2, 3, 9].iter().all(|it| answers[*it] > 1000), "{answers:?}");
    }

    /// Far answers are repeated, and far comparisons jumped to.
    #[test]
    fn long_programs_reach_their_ends() {
        let mut program = vec![step(LOAD, 0, 0, 0)];
        for k in 0..900 {
            // Every third has an answer of its own, and looks at another word first.
            program.push(step(EQUAL, 0, 4, k * 2));
            program.push(step(LOAD, 0, 0, 16));
            program.push(step(EQUAL, 0, 1, k));
            program.push(step(ANSWER, 0, 0, k % 3));
            program.push(step(ANSWER, 0, 0, 7));
            program.push(step(LOAD, 0, 0, 0));
        }
        program.push(step(ANSWER, 0, 0, 8));
        let shrunk = shrink(program.clone());
        assert!(shrunk.len() < 4096 && shrunk.len() < program.len(), "{}", shrunk.len());
        for number in 0..2000 {
            for value in [0, number / 2, number] {
                let mut data = [0; 16];
                (data[0], data[4]) = (number, value);
                assert_eq!(answer(&shrunk, &data), answer(&program, &data), "{number} {value}");
            }
        }
    }

    /// The processor is compared once, and first; what the kernel adds one day is left alone.
    #[test]
    fn shape() {
        let check = |program: &[sock_filter], expect: usize| {
            let shrunk = shrink(program.to_vec());
            assert_eq!(shrunk.len(), expect, "{shrunk:?}");
            shrunk
        };
        let processor = [step(LOAD, 0, 0, 4), step(EQUAL, 1, 0, 62), step(ANSWER, 0, 0, 1)];
        let run = |k| [&processor[..], &[step(LOAD, 0, 0, 0), step(EQUAL, 0, 1, k)]].concat();
        let ends = [step(ANSWER, 0, 0, 5), step(ANSWER, 0, 0, 1)];
        let head = [step(LOAD, 0, 0, 0), step(AT_LEAST, 7, 0, 9)];
        let both = [&head[..], &run(3), &ends, &run(12), &ends].concat();
        // Two words, three comparisons and an equal pair of answers.
        let shrunk = check(&both, 8);
        assert_eq!((shrunk[0].k, shrunk[1].k), (PROCESSOR.at, 62));
        let strange = [step(0x80, 0, 0, 0), step(EQUAL, 0, 0, 1), step(ANSWER, 0, 0, 1)];
        check(&strange, 3);
        check(&[step(LOAD, 0, 0, 0), step(ANSWER, 0, 0, 1)], 1);
    }

    /// An instruction costs each cell a tenth of a microsecond and more: these were 1282, 757 and 38 as joined.
    #[test]
    fn profiles_are_short() {
        let text = include_str!("../profiles/transcode.json");
        for processor in ["x86_64", "aarch64"] {
            let it = super::super::compile(text, processor).unwrap();
            let len = [it.payload, it.watch, it.init].map(|program| program.len());
            assert!(len[0] < 300 && len[1] < 200 && len[2] < 20, "{processor}: {len:?}");
        }
    }
}
