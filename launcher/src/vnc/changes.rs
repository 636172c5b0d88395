//! What a viewer has not been told of: the part of the picture that moved, then what else differs.

use devices::display::{Damage, Picture, Rect};

use super::scroll::Scroll;

/// What has happened to a screen's picture from one look at it to the next, for all of its viewers.
pub struct Round {
    damage: Damage,
    /// What moved, and where the picture differs besides.
    scroll: Option<(Scroll, Vec<Rect>)>,
}

impl Round {
    /// `rects`, all of `damage`, have every pixel that differs from `before`, the picture of the last
    /// look; `None` where nobody kept it.
    pub fn new(damage: Damage, rects: &[Rect], before: Option<&Picture>, now: &Picture) -> Round {
        let scroll = before.and_then(|before| {
            let scroll = Scroll::find(before, now, rects)?;
            Some((scroll, scroll.rest(rects)))
        });
        Round { damage, scroll }
    }
}

/// What one viewer has not been told of.
#[derive(Default)]
pub struct Changes {
    /// What the client has to copy before it gets any pixels.
    scroll: Option<Scroll>,
    damage: Damage,
}

impl Changes {
    /// True when there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.scroll.is_none() && self.damage.is_empty()
    }

    /// The viewer sees another picture from now on: all of it counts, however large it is.
    pub fn start_over(&mut self) {
        self.scroll = None;
        self.damage = Damage::new(1, 1);
        self.damage.add_all();
    }

    /// Makes damage of another picture's size this one's, all over.
    pub fn fit(&mut self, picture: &Picture) {
        fit(&mut self.damage, picture);
    }

    /// Adds what has happened. With `copies` the viewer's client can copy; it does only what it has to
    /// do at once, since what it shows is the picture of the last look only if nothing else waits.
    pub fn add(&mut self, round: &Round, copies: bool, picture: &Picture) {
        self.fit(picture);
        match &round.scroll {
            Some((scroll, rest)) if copies && self.is_empty() => {
                self.scroll = Some(*scroll);
                rest.iter().for_each(|rect| self.damage.add(rect));
            }
            _ => {
                self.forget_scroll();
                self.damage.merge(&round.damage);
            }
        }
    }

    /// Takes what the client is to copy, if it can: it waits for all of a picture of this size.
    /// Otherwise it will get pixels.
    pub fn take_scroll(&mut self, waits_for: &Rect, picture: &Picture) -> Option<Scroll> {
        if *waits_for != all_of(picture) {
            self.forget_scroll();
        }
        self.scroll.take()
    }

    /// What differs, once what moved was taken.
    pub fn damage(&mut self) -> &mut Damage {
        self.forget_scroll();
        &mut self.damage
    }

    /// The client will get pixels of what moved, too.
    pub fn forget_scroll(&mut self) {
        if let Some(scroll) = self.scroll.take() {
            self.damage.add(&scroll.to);
        }
    }
}

/// Makes damage of another picture's size this one's, all over.
pub fn fit(damage: &mut Damage, picture: &Picture) {
    if !damage.fits(picture.width(), picture.height()) {
        *damage = Damage::new(picture.width(), picture.height());
        damage.add_all();
    }
}

/// A picture's rectangle.
pub fn all_of(picture: &Picture) -> Rect {
    Rect { x: 0, y: 0, width: picture.width(), height: picture.height() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vnc::encode::tests::pictures::{Kind, picture};

    #[test]
    fn a_client_that_cannot_copy_any_more_gets_pixels() {
        let before = picture(Kind::Text, 640, 400, 1);
        let mut now = before.clone();
        for y in 0..384 {
            now.row_mut(y).copy_from_slice(before.row(y + 16));
        }
        let mut damage = Damage::new(640, 400);
        damage.add_all();
        let rects = damage.clone().take(&all_of(&now));
        let round = Round::new(damage, &rects, Some(&before), &now);
        let mut changes = Changes::default();
        changes.fit(&now);
        // It shows the picture of the last look.
        changes.damage().take(&all_of(&now));
        changes.add(&round, true, &now);
        assert!(changes.scroll.is_some(), "it moved");

        changes.forget_scroll();
        assert_eq!(changes.take_scroll(&all_of(&now), &now), None);
        let moved = Rect { x: 0, y: 0, width: 640, height: 384 };
        let told = changes.damage().take(&all_of(&now));
        let told: u32 =
            told.iter().map(|rect| rect.intersection(&moved)).map(|r| r.width * r.height).sum();
        assert_eq!(told, 640 * 384, "what moved is told as pixels");
    }
}
