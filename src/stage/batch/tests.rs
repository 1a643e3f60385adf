//! The queue driven by hand.

use super::*;

fn layout() -> BatchLayout {
    BatchLayout {
        image_bytes: 4,
        capacity: 3,
        buffers: 2,
        max_delay: Duration::from_millis(20),
    }
}

fn queue(model: &'static str, layout: BatchLayout) -> Queue<&'static str, char> {
    Queue::new(model, layout, |_, bytes| PixelBuffer::zeroed(bytes))
}

fn filled(
    queue: &mut Queue<&'static str, char>,
    piece: Piece<&'static str>,
    reply: char,
    now: Instant,
) {
    let mut pixels = piece.pixels;
    pixels.fill(reply as u8);
    queue.fill(piece.id, pixels, reply, now);
}

/// Every reply's image must lie at the reply's place.
fn check(ready: &Ready<&'static str, char>) {
    for (i, reply) in ready.replies.iter().enumerate() {
        assert_eq!(ready.pixels[i * 4..][..4], [*reply as u8; 4], "place {i}");
    }
}

#[test]
fn a_full_batch_is_ready_when_its_last_image_is_filled_in_any_order() {
    let now = Instant::now();
    let mut queue = queue("m", layout());
    let pieces: Vec<_> = (0..3).map(|_| queue.claim(now).unwrap()).collect();
    for (piece, reply) in pieces.into_iter().zip(['a', 'b', 'c']).rev() {
        assert!(queue.pop().is_none());
        filled(&mut queue, piece, reply, now);
    }
    let ready = queue.pop().unwrap();
    assert_eq!(ready.replies, ['a', 'b', 'c']);
    check(&ready);
    assert_eq!(ready.pixels.len(), 12);
}

#[test]
fn a_dropped_piece_is_lent_again() {
    let now = Instant::now();
    let mut queue = queue("m", layout());
    let dropped = queue.claim(now).unwrap();
    queue.release(dropped.id, dropped.pixels, now);
    for reply in "abc".chars() {
        let piece = queue.claim(now).unwrap();
        filled(&mut queue, piece, reply, now);
    }
    let ready = queue.pop().unwrap();
    check(&ready);
    assert_eq!(ready.replies.len(), 3);
}

#[test]
fn a_piece_dropped_after_the_batch_was_sealed_leaves_no_hole() {
    let now = Instant::now();
    let mut queue = queue("m", layout());
    let mut pieces: Vec<_> = (0..3).map(|_| queue.claim(now).unwrap()).collect();
    filled(&mut queue, pieces.pop().unwrap(), 'c', now);
    filled(&mut queue, pieces.pop().unwrap(), 'b', now);
    let dropped = pieces.pop().unwrap();
    queue.release(dropped.id, dropped.pixels, now);
    let ready = queue.pop().unwrap();
    check(&ready);
    assert_eq!(ready.replies.len(), 2);
}

#[test]
fn every_pattern_of_drops_keeps_images_with_their_replies() {
    let now = Instant::now();
    let big = BatchLayout {
        capacity: 6,
        ..layout()
    };
    for drops in 0..64u32 {
        let mut queue = queue("m", big);
        let pieces: Vec<_> = (0..6).map(|_| queue.claim(now).unwrap()).collect();
        for (i, piece) in pieces.into_iter().enumerate() {
            if drops & (1 << i) == 0 {
                filled(&mut queue, piece, (b'a' + i as u8) as char, now);
            } else {
                queue.release(piece.id, piece.pixels, now);
            }
        }
        match queue.pop() {
            Some(ready) => {
                check(&ready);
                let mut replies = ready.replies.clone();
                replies.sort();
                let kept = (0..6).filter(|i| drops & (1 << i) == 0);
                assert!(
                    replies
                        .iter()
                        .copied()
                        .eq(kept.map(|i| (b'a' + i as u8) as char))
                );
                queue.recycle(ready.pixels);
            }
            None => assert_eq!(drops, 63),
        }
        assert_eq!((queue.in_use, queue.images()), (0, 0));
    }
}

#[test]
fn the_delay_runs_from_the_first_filled_image() {
    let start = Instant::now();
    let mut queue = queue("m", layout());
    let (a, b) = (queue.claim(start).unwrap(), queue.claim(start).unwrap());
    assert_eq!(queue.deadline(), None);
    let filled_at = start + Duration::from_millis(5);
    filled(&mut queue, a, 'a', filled_at);
    assert_eq!(
        queue.deadline(),
        Some(filled_at + Duration::from_millis(20))
    );
    queue.expire(filled_at + Duration::from_millis(19));
    assert!(queue.open.is_some());
    queue.expire(filled_at + Duration::from_millis(20));
    assert!(queue.open.is_none());
    // `b` is still being decoded: the batch waits for it, and later images go to the next.
    assert!(queue.pop().is_none());
    let c = queue.claim(start).unwrap();
    assert_ne!(c.id.batch, b.id.batch);
    filled(&mut queue, b, 'b', filled_at + Duration::from_millis(30));
    assert_eq!(queue.pop().unwrap().replies, ['a', 'b']);
}

#[test]
fn buffers_are_bounded_and_used_again() {
    let now = Instant::now();
    let mut queue = queue("m", layout());
    for _ in 0..6 {
        let piece = queue.claim(now).unwrap();
        filled(&mut queue, piece, 'x', now);
    }
    assert!(queue.claim(now).is_none());
    let ready = queue.pop().unwrap();
    let address = ready.pixels.as_ptr();
    queue.recycle(ready.pixels);
    let piece = queue.claim(now).unwrap();
    assert_eq!(piece.pixels.as_ptr(), address);
}

#[test]
fn a_new_model_takes_new_pieces_and_the_old_one_keeps_its_own() {
    let now = Instant::now();
    let mut queue = queue("old", layout());
    let a = queue.claim(now).unwrap();
    let wide = BatchLayout {
        image_bytes: 8,
        ..layout()
    };
    queue.exchange("new", wide, now);
    let b = queue.claim(now).unwrap();
    assert_eq!((a.model, a.pixels.len()), ("old", 4));
    assert_eq!((b.model, b.pixels.len()), ("new", 8));
    filled(&mut queue, a, 'a', now);
    let ready = queue.pop().unwrap();
    assert_eq!(ready.model, "old");
    queue.recycle(ready.pixels);
    assert!(queue.spare.is_empty());
}

#[test]
fn capacity_obeys_count_and_bytes() {
    assert_eq!(BatchLayout::capacity_for(16, 1000, 100), 10);
    assert_eq!(BatchLayout::capacity_for(4, 1000, 100), 4);
    assert_eq!(BatchLayout::capacity_for(16, 10, 100), 1);
}

/// Images that are filled go to a worker that has nothing to do, whatever is still being decoded.
#[test]
fn what_is_filled_runs_without_what_is_not() {
    let now = Instant::now();
    let mut queue = queue("m", layout());
    let pieces: Vec<_> = (0..2).map(|_| queue.claim(now).unwrap()).collect();
    let [a, b] = pieces.try_into().unwrap();
    assert!(queue.take_filled(9, now).is_none(), "nothing is filled");
    filled(&mut queue, b, 'b', now);
    assert_eq!(queue.lent(), 1);
    let ready = queue.take_filled(9, now).unwrap();
    assert_eq!(ready.replies, ['b']);
    check(&ready);
    assert_eq!(ready.pixels.len(), 12, "a whole buffer");
    assert_eq!(queue.deadline(), None, "nobody waits");
    // The batch goes on with the places that became free.
    queue.recycle(ready.pixels);
    let c = queue.claim(now).unwrap();
    let d = queue.claim(now).unwrap();
    for (piece, reply) in [(a, 'a'), (c, 'c'), (d, 'd')] {
        filled(&mut queue, piece, reply, now);
    }
    let ready = queue.pop().unwrap();
    let mut replies = ready.replies.clone();
    replies.sort();
    assert_eq!(replies, ['a', 'c', 'd']);
    check(&ready);
}

#[test]
fn a_slow_image_holds_up_no_full_batch_either() {
    let now = Instant::now();
    let mut queue = queue("m", layout());
    let mut pieces: Vec<_> = (0..3).map(|_| queue.claim(now).unwrap()).collect();
    let slow = pieces.remove(1);
    for (piece, reply) in pieces.into_iter().zip("ac".chars()) {
        filled(&mut queue, piece, reply, now);
    }
    assert!(queue.pop().is_none());
    let ready = queue.take_filled(9, now).unwrap();
    assert_eq!(ready.replies, ['a', 'c']);
    check(&ready);
    queue.recycle(ready.pixels);
    filled(&mut queue, slow, 's', now);
    let ready = queue.pop().unwrap();
    assert_eq!(ready.replies, ['s']);
    check(&ready);
    queue.recycle(ready.pixels);
    assert_eq!((queue.in_use, queue.images()), (0, 0));
}

/// Where every processor is busy a run would only take time from the others.
#[test]
fn nothing_is_taken_where_more_is_being_decoded_than_may_be() {
    let now = Instant::now();
    let mut queue = queue("m", layout());
    let (a, b) = (queue.claim(now).unwrap(), queue.claim(now).unwrap());
    filled(&mut queue, a, 'a', now);
    assert!(queue.take_filled(0, now).is_none());
    assert!(queue.take_filled(1, now).is_some());
    queue.release(b.id, b.pixels, now);
    assert_eq!(queue.images(), 0);
    // Alone it needs no other buffer: its batch ends.
    let c = queue.claim(now).unwrap();
    filled(&mut queue, c, 'c', now);
    assert_eq!(queue.take_filled(0, now).unwrap().replies, ['c']);
}

#[test]
fn without_a_buffer_to_spare_images_wait() {
    let now = Instant::now();
    let mut queue = queue("m", layout());
    for _ in 0..3 {
        let piece = queue.claim(now).unwrap();
        filled(&mut queue, piece, 'x', now);
    }
    let (a, _b) = (queue.claim(now).unwrap(), queue.claim(now).unwrap());
    filled(&mut queue, a, 'a', now);
    let full = queue.pop().unwrap();
    let none = queue.take_filled(9, now);
    assert!(none.is_none(), "both buffers are in use");
    queue.recycle(full.pixels);
    assert_eq!(queue.take_filled(9, now).unwrap().replies, ['a']);
}

#[test]
fn a_batch_of_an_earlier_model_waits_for_its_own() {
    let now = Instant::now();
    let mut queue = queue("old", layout());
    let (a, b) = (queue.claim(now).unwrap(), queue.claim(now).unwrap());
    filled(&mut queue, a, 'a', now);
    let wide = BatchLayout {
        image_bytes: 8,
        ..layout()
    };
    queue.exchange("new", wide, now);
    assert!(
        queue.take_filled(9, now).is_none(),
        "its buffers are of another size"
    );
    filled(&mut queue, b, 'b', now);
    assert_eq!(queue.pop().unwrap().replies, ['a', 'b']);
}

/// Whatever is filled, given back and taken in whatever order: each image runs once, in its place.
#[test]
fn every_order_of_filling_and_taking_keeps_images_with_their_replies() {
    let now = Instant::now();
    for seed in 0..200u32 {
        let mut queue = queue("m", layout());
        let mut random = seed;
        let mut next = |below: usize| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 16) as usize % below
        };
        let (mut lent, mut names, mut ran) = (Vec::new(), ('a'..='z').cycle(), Vec::new());
        let mut expected = Vec::new();
        for _ in 0..40 {
            match next(4) {
                0 | 1 => lent.extend(queue.claim(now)),
                2 if !lent.is_empty() => {
                    let piece = lent.remove(next(lent.len()));
                    let name = names.next().unwrap();
                    expected.push(name);
                    filled(&mut queue, piece, name, now);
                }
                _ if !lent.is_empty() && next(3) == 0 => {
                    let piece = lent.remove(next(lent.len()));
                    queue.release(piece.id, piece.pixels, now);
                }
                _ => {
                    let ready = queue.pop().or_else(|| queue.take_filled(next(4), now));
                    if let Some(ready) = ready {
                        check(&ready);
                        ran.extend(ready.replies.iter().copied());
                        queue.recycle(ready.pixels);
                    }
                }
            }
        }
        for piece in lent {
            queue.release(piece.id, piece.pixels, now);
        }
        queue.seal(now);
        while let Some(ready) = queue.pop() {
            check(&ready);
            ran.extend(ready.replies.iter().copied());
            queue.recycle(ready.pixels);
        }
        ran.sort();
        expected.sort();
        assert_eq!(ran, expected, "seed {seed}");
        assert_eq!((queue.in_use, queue.images()), (0, 0));
    }
}
